"""Shared libraries of an image that ask for others than they were built with, and those of Debian among the wheels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from mlopt.errors import ImageFailed
from mlopt.image.elf import Rebinding, rebind
from mlopt.image.tree import Entry, Tree


def library_tree(deb: Tree, folder: str) -> Tree:
    """The libraries of a Debian package, all in one folder, and its licence where it always is."""
    found = {path: entry for path, entry in deb.items() if path.endswith("/copyright")}
    names = {path: PurePosixPath(path) for path in deb}
    return found | {f"{folder}/{name.name}": deb[path] for path, name in names.items() if ".so" in name.suffixes}


def rebound(path: str, entry: Entry, rules: Sequence[Rebinding]) -> Entry:
    """A file of a wheel that, if it is a library, asks for what is in the image. Raises `ImageFailed`."""
    if ".so" not in path or not isinstance(entry.content, bytes):
        return entry
    try:
        return replace(entry, content=rebind(entry.content, rules))
    except ValueError as error:
        raise ImageFailed(
            f"The library {path} cannot be bound to what is in the image: {error}.",
            next="correct rebound in docker/python.toml",
        ) from error
