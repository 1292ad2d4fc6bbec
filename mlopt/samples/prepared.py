"""Samples that are decoded once: what is prepared is kept on disk while the process lives, up to a bound."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import IO, TYPE_CHECKING, Any, Final

from mlopt.artifact import Digest

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.sources import Source

_MOST: Final = 1 << 30  # bytes; what comes later is prepared anew each time
_SHARE: Final = 4  # of what is free where temporary files lie, one part in so many at most


@dataclass(slots=True)
class PreparedOnce:
    """`source`, whose samples every step of a walk reads again: each is decoded, prepared and hashed once.

    They lie in a file without a name, which is gone with the process, and are read, not mapped: memory does not grow
    with their number. A disk that turns out to be full only ends the keeping.
    """

    source: Source
    bound: int | None = None
    _rows: dict[int, Mapping[str, _Place]] = field(default_factory=dict, init=False)
    _contents: dict[int, Digest] = field(default_factory=dict, init=False)
    _end: int = field(default=0, init=False)
    _file: IO[bytes] = field(init=False)
    _lock: Lock = field(default_factory=Lock, init=False)

    def __post_init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="mlopt-samples-")  # noqa: SIM115 - lives as long as the samples
        if self.bound is None:
            self.bound = min(_MOST, shutil.disk_usage(tempfile.gettempdir()).free // _SHARE)

    @property
    def where(self) -> str:
        return self.source.where

    @property
    def labelled(self) -> bool:
        return self.source.labelled

    @property
    def classes(self) -> Mapping[int, str]:
        return self.source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> dict[str, np.ndarray]:
        if places := self._rows.get(index):
            return {name: place.read(self._file) for name, place in places.items()}
        row = self.source.load(index)
        with self._lock:
            self._keep(index, row)
        return row

    def label(self, index: int) -> int:
        return self.source.label(index)

    def content(self, index: int) -> Digest:
        if index not in self._contents:
            self._contents[index] = self.source.content(index)
        return self._contents[index]

    def describe(self, index: int) -> str:
        return self.source.describe(index)

    def preparation(self) -> Mapping[str, object]:
        return self.source.preparation()

    def _keep(self, index: int, row: Mapping[str, np.ndarray]) -> None:
        size = sum(array.nbytes for array in row.values())
        if index in self._rows or self.bound is None or self._end + size > self.bound:
            return
        start, places = self._end, {}
        try:
            for name, array in row.items():
                if os.pwrite(self._file.fileno(), array.tobytes(), start) < array.nbytes:
                    raise OSError("a short write")
                places[name] = _Place(start, array.dtype, array.shape, array.nbytes)
                start += array.nbytes
        except OSError:
            self.bound = 0
            return
        self._rows[index] = places
        self._end = start


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int

    def read(self, file: IO[bytes]) -> np.ndarray:
        import numpy as np

        return np.frombuffer(os.pread(file.fileno(), self.size, self.start), self.dtype).reshape(self.shape)
