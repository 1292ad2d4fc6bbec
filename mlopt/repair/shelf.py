"""Values of many samples, in memory up to a bound and on disk beyond it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(slots=True)
class Shelf:
    """Arrays by name and sample. At most `bound` bytes of them are held in memory, the rest in files of `folder`."""

    folder: Path
    bound: int
    _held: dict[tuple[str, int], np.ndarray | _Stored] = field(default_factory=dict, init=False)
    _bytes: int = field(default=0, init=False)
    _files: int = field(default=0, init=False)

    def put(self, name: str, sample: int, value: np.ndarray) -> None:
        """Keep one value. Raises OSError where the disk is full, with its number (`numpy.save` gives none)."""
        if self._bytes + value.nbytes <= self.bound:
            self._bytes += value.nbytes
            self._held[name, sample] = value
            return
        self._files += 1
        stored = _Stored(self.folder / str(self._files), value.dtype, value.shape)
        stored.path.write_bytes(value.tobytes())
        self._held[name, sample] = stored

    def get(self, name: str, sample: int) -> np.ndarray:
        """What was put there."""
        import numpy as np

        value = self._held[name, sample]
        if not isinstance(value, _Stored):
            return value
        return np.frombuffer(value.path.read_bytes(), value.dtype).reshape(value.shape)

    def drop(self, name: str, samples: int) -> None:
        """Forget the values of one name."""
        for sample in range(samples):
            value = self._held.pop((name, sample))
            if isinstance(value, _Stored):
                value.path.unlink()
            else:
                self._bytes -= value.nbytes


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
