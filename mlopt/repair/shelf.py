"""Values of many samples, in memory up to a bound and on disk beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Shelf:
    """Arrays by name and sample. At most `bound` bytes of them are held in memory, the rest in files of `folder`."""

    folder: Path
    bound: int
    _held: dict[tuple[str, int], np.ndarray | Path] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _files: int = field(default=0, init=False)

    def put(self, name: str, sample: int, value: np.ndarray) -> None:
        """Keep one value."""
        import numpy as np

        if self._bytes + value.nbytes <= self.bound:
            self._bytes += value.nbytes
            self._held[name, sample] = value
            return
        self._files += 1
        path = self.folder / f"{self._files}.npy"
        np.save(path, value)
        self._held[name, sample] = path

    def get(self, name: str, sample: int) -> np.ndarray:
        """What was put there."""
        import numpy as np

        value = self._held[name, sample]
        if not isinstance(value, Path):
            return value
        loaded: np.ndarray = np.load(value)
        return loaded

    def drop(self, name: str, samples: int) -> None:
        """Forget the values of one name."""
        for sample in range(samples):
            value = self._held.pop((name, sample))
            if isinstance(value, Path):
                value.unlink()
            else:
                self._bytes -= value.nbytes
