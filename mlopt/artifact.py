"""The noun that travels: an immutable directory, its digest, and how it came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NewType

Format = NewType("Format", str)
Digest = NewType("Digest", str)

ONNX: Final = Format("onnx")
OUTCOMES: Final = Format("outcomes")
OCI: Final = Format("oci")
ENGINE: Final = Format("tensorrt-engine")
DEVICE_BUILD: Final = Format("tensorrt-device-build")
PEAKS: Final = Format("peaks")
RANGES: Final = Format("ranges")

_MAIN: Final[Mapping[Format, str]] = {
    ONNX: "model.onnx",
    OUTCOMES: "outcomes.json",
    OCI: "index.json",
    ENGINE: "model.engine",
    DEVICE_BUILD: "build.json",
    PEAKS: "peaks.json",
    RANGES: "ranges.json",
}
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """One link of a lineage: which step, with which options and tools, made what from what."""

    step: str
    version: int
    options: Mapping[str, object]
    source: Digest
    tools: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Artifact:
    """An immutable result. `path` is always a directory; `digest` covers every file below it.

    A model is one file in it or several (ONNX above 2 GB keeps its weights beside the graph), so
    nothing outside a step may assume more than `main`.
    """

    format: Format
    digest: Digest
    path: Path
    lineage: tuple[Origin, ...] = ()

    @property
    def main(self) -> Path:
        """The file that a reader of this format opens first."""
        if self.path.is_file():  # a model that was never adopted: `mlopt bench` measures it where it lies
            return self.path
        if self.format in _MAIN:
            return self.path / _MAIN[self.format]
        entries = sorted(self.path.iterdir())
        return entries[0] if len(entries) == 1 else self.path

    @property
    def bytes(self) -> int:
        """What the artifact takes on disk, in bytes."""
        return sum(file.stat().st_size for file in files(self.path))


def files(folder: Path) -> list[Path]:
    """Every regular file below `folder`, in an order that does not depend on the file system."""
    return sorted(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.relative_to(folder).as_posix()
    )


def digest_of(path: Path) -> Digest:
    """sha256 of a file's bytes, or of a folder's sorted list of (relative name, sha256)."""
    if path.is_file():
        return Digest(_sha256(path))
    whole = hashlib.sha256()
    for file in files(path):
        whole.update(f"{file.relative_to(path).as_posix()}\0{_sha256(file)}\n".encode())
    return Digest(whole.hexdigest())


def _sha256(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
    return sha.hexdigest()
