"""Shared libraries of an image: stripped, bound to others than they were built with, and Debian's among the wheels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import PurePosixPath

from mlopt.errors import ImageFailed
from mlopt.image.elf import Rebinding, rebind, strip
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


def stripped(path: str, entry: Entry, patterns: Iterable[str]) -> Entry:
    """A file of a wheel without what only debuggers read, if a glob is about it. Raises `ImageFailed`."""
    if not isinstance(entry.content, bytes) or not any(fnmatch(path, pattern) for pattern in patterns):
        return entry
    try:
        return replace(entry, content=strip(entry.content))
    except ValueError as error:
        raise ImageFailed(
            f"The library {path} cannot be stripped: {error}.", next="correct stripped in docker/python.toml"
        ) from error
