"""Where samples come from: one class per kind, all random access, none held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from mlopt.artifact import Digest, digest_of
from mlopt.errors import SamplesInvalid

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.preprocess import Preparation


class Source(Protocol):
    """Random access to samples by index; arrays come without a batch dimension, by input name."""

    @property
    def where(self) -> str: ...

    @property
    def labelled(self) -> bool: ...

    @property
    def classes(self) -> Mapping[int, str]: ...

    def __len__(self) -> int: ...

    def load(self, index: int) -> dict[str, np.ndarray]: ...

    def label(self, index: int) -> int: ...

    def content(self, index: int) -> Digest:
        """sha256 of the sample as it lies on disk: equal samples never land on both sides of a split."""
        ...

    def describe(self, index: int) -> str:
        """How a person finds this sample again."""
        ...

    def preparation(self) -> Mapping[str, object]:
        """What happens between disk and input, as JSON: part of every digest."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFiles:
    """Images in a folder, decoded and prepared when asked for."""

    where: str
    files: tuple[Path, ...]
    labels: tuple[int, ...] | None
    classes: Mapping[int, str]
    input: str
    preprocess: Preparation

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        return len(self.files)

    def load(self, index: int) -> dict[str, np.ndarray]:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(self.files[index]) as image:
                return {self.input: self.preprocess.apply(image)}
        except (UnidentifiedImageError, OSError) as error:
            raise SamplesInvalid(
                f"The image cannot be decoded: {error}.",
                where=str(self.files[index]),
                next="remove or replace the file",
            ) from error

    def label(self, index: int) -> int:
        assert self.labels is not None
        return self.labels[index]

    def content(self, index: int) -> Digest:
        return digest_of(self.files[index])

    def describe(self, index: int) -> str:
        return self.files[index].name

    def preparation(self) -> Mapping[str, object]:
        return {"input": self.input, **self.preprocess.as_json()}


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file as it was when it was opened: what is mapped of it must not become another's under a run."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> Self:
        found = path.stat()
        return cls(path, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raises `SamplesInvalid`."""
        if not self.path.is_file() or Stamp.of(self.path) != self:
            raise SamplesInvalid(
                "The samples were written anew while they were being read.",
                where=str(self.path),
                next="start again when that is done; results so far are of the old ones, and are kept as theirs",
            )


@dataclass(frozen=True, slots=True)
class MappedArrays:
    """Arrays on disk (first dimension is the sample), memory-mapped.

    `preprocess` is set for an input that holds images as uint8 [N, H, W, C] and not the model's tensor; `file` where
    the arrays lie in a file of somebody else's.
    """

    where: str
    inputs: Mapping[str, np.ndarray]
    labels: np.ndarray | None
    classes: Mapping[int, str]
    preprocess: Mapping[str, Preparation]
    file: Stamp | None = None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def load(self, index: int) -> dict[str, np.ndarray]:
        import numpy as np
        from PIL import Image

        row: dict[str, np.ndarray] = {}
        if self.file:
            self.file.check()
        for name, array in self.inputs.items():
            value = np.array(array[index], order="C")  # at once: nobody may cut the file off below what is read later
            if prepare := self.preprocess.get(name):
                value = prepare.apply(Image.fromarray(value.squeeze(-1) if value.shape[-1] == 1 else value))
            row[name] = value
        return row

    def label(self, index: int) -> int:
        assert self.labels is not None
        return int(self.labels[index])

    def content(self, index: int) -> Digest:
        import numpy as np

        if self.file:
            self.file.check()
        sha = hashlib.sha256()
        for name in sorted(self.inputs):
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(self.inputs[name][index]).data)
        return Digest(sha.hexdigest())

    def describe(self, index: int) -> str:
        return f"number {index}"

    def preparation(self) -> Mapping[str, object]:
        return {name: prepare.as_json() for name, prepare in sorted(self.preprocess.items())}
