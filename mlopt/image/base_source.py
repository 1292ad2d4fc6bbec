"""Where a base of the user's choice comes from: an OCI layout on disk, or a registry. All of it is checked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mlopt.errors import BaseUnusable, ImageFailed
from mlopt.image.disk import unfinished, writing
from mlopt.image.layout import checked_blob, read_blob

if TYPE_CHECKING:
    from mlopt.image.repository import Repository


class Source(Protocol):
    """Where manifests and blobs come from, checked against their digests."""

    def manifest(self, descriptor: Mapping[str, Any]) -> bytes: ...

    def config(self, descriptor: Mapping[str, Any]) -> bytes: ...

    def blob(self, descriptor: Mapping[str, Any]) -> Path: ...


@dataclass(frozen=True, slots=True)
class LayoutSource:
    """An OCI layout on disk, as the user named it."""

    folder: Path
    said: str

    def manifest(self, descriptor: Mapping[str, Any]) -> bytes:
        with _as_base(self.said):
            return read_blob(self.folder, descriptor)

    config = manifest

    def blob(self, descriptor: Mapping[str, Any]) -> Path:
        with _as_base(self.said):
            return checked_blob(self.folder, descriptor)


@dataclass(frozen=True, slots=True)
class RegistrySource:
    """A repository of a registry; blobs are kept below `root`/bases."""

    repository: Repository
    root: Path

    def manifest(self, descriptor: Mapping[str, Any]) -> bytes:
        return self.repository.manifest(descriptor["digest"]).data

    def config(self, descriptor: Mapping[str, Any]) -> bytes:
        return self.repository.read(descriptor)

    def blob(self, descriptor: Mapping[str, Any]) -> Path:
        """From the cache, if what lies there is whole; else from the registry."""
        home = self.root / "bases" / str(descriptor["digest"]).removeprefix("sha256:") / "blob"
        if home.is_file():
            with home.open("rb") as stream:
                if f"sha256:{file_digest(stream, 'sha256').hexdigest()}" == descriptor["digest"]:
                    return home
        with writing(home.parent), unfinished(self.root) as scratch:
            made = Path(scratch) / "blob"
            with made.open("w+b") as stream:
                self.repository.download(descriptor, stream)
            home.parent.mkdir(parents=True, exist_ok=True)
            os.replace(made, home)
        return home


class _as_base:  # noqa: N801 - reads as a word in `with`
    """A damaged layout of the user's is a base that cannot be used, and no image of ours that is damaged."""

    def __init__(self, said: str) -> None:
        self._said = said

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ImageFailed):
            what = error.what.replace("The image is damaged", "The base is damaged")
            raise BaseUnusable(what, where=error.where or self._said, next="copy the layout again") from error
