"""A tree of files in memory, and its one reproducible form as a compressed tar."""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, Literal

from mlopt.image.compression import Sink, compressing
from mlopt.request import Compression

Kind = Literal["file", "folder", "link"]

_COPYRIGHT: Final = re.compile(r"usr/share/doc/[^/]+/copyright|.*\.dist-info/(licenses/.*|LICEN[CS]E.*|NOTICE.*)")
_DOCUMENTS: Final = re.compile(r"usr/share/doc/[^/]+")


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of an image. `content` is bytes, or a file that is read when the tar is written; `target` of a link."""

    kind: Kind
    mode: int = 0o755
    content: bytes | Path = b""
    target: str = ""


Tree = dict[str, Entry]


@dataclass(frozen=True, slots=True)
class Packed:
    """A written layer: sha256 of the compressed bytes, of the tar inside, and the sizes in bytes."""

    digest: str
    diff_id: str
    size: int
    unpacked: int


def without(tree: Mapping[str, Entry], patterns: Iterable[str]) -> Tree:
    """The tree less what matches a glob (`*` crosses folders). Copyright files always stay; empty folders go."""
    unwanted = re.compile("|".join(translate(pattern) for pattern in patterns) or r"(?!)")
    return {
        path: entry
        for path, entry in tree.items()
        if entry.kind != "folder" and (_is_copyright(path, entry) or not unwanted.fullmatch(path))
    }


def _is_copyright(path: str, entry: Entry) -> bool:
    """A licence, or the link by which a package shares the folder of another package's licence."""
    return bool(_COPYRIGHT.fullmatch(path) or (entry.kind == "link" and _DOCUMENTS.fullmatch(path)))


def inside(path: str) -> str:
    """A path of an archive as a clean relative one. Raises `ValueError` for one that would leave the tree.

    >>> inside("./usr/lib/x")
    'usr/lib/x'
    """
    parts = PurePosixPath(path).parts
    if ".." in parts or path.startswith("/"):
        raise ValueError(f"{path!r} leaves the archive")
    return "/".join(part for part in parts if part != ".")


def pack(
    tree: Mapping[str, Entry], sink: IO[bytes], *, mtime: int, level: int, compression: Compression = "gzip"
) -> Packed:
    """Write a compressed tar that depends on nothing but the tree: sorted, one time, owner root, no names of users.

    Folders above every entry are added with mode 0755.
    """
    outer = _Hashing(sink)
    with compressing(outer, compression, level=level) as compressed:
        inner = _Hashing(compressed)
        # tarfile wants only `write` of a stream, and its type stubs a whole file.
        stream: Any = inner
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar:
            for path, entry in sorted(_with_folders(tree).items()):
                _add(tar, path, entry, mtime)
    return Packed(outer.hexdigest(), inner.hexdigest(), outer.size, file_bytes(tree))


def file_bytes(tree: Mapping[str, Entry]) -> int:
    """What the files of a tree take on disk."""
    return sum(_length(entry) for entry in tree.values() if entry.kind == "file")


def _add(tar: tarfile.TarFile, path: str, entry: Entry, mtime: int) -> None:
    info = tarfile.TarInfo(path)
    info.mtime, info.mode = mtime, entry.mode
    if entry.kind == "folder":
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    elif entry.kind == "link":
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.target, 0o777
        tar.addfile(info)
    elif isinstance(entry.content, Path):
        info.size = _length(entry)
        with entry.content.open("rb") as stream:
            tar.addfile(info, stream)
    else:
        import io

        info.size = len(entry.content)
        tar.addfile(info, io.BytesIO(entry.content))


def _with_folders(tree: Mapping[str, Entry]) -> Tree:
    whole = dict(tree)
    for path in tree:
        for parent in list(PurePosixPath(path).parents)[:-1]:
            whole.setdefault(parent.as_posix(), Entry("folder"))
    return whole


def _length(entry: Entry) -> int:
    return entry.content.stat().st_size if isinstance(entry.content, Path) else len(entry.content)


class _Hashing:
    """A writer that knows the sha256 and length of what went through it."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._sha, self.size = sink, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self._sha.update(data)
        length = memoryview(data).nbytes
        self.size += length
        self._sink.write(data)
        return length

    def flush(self) -> None:
        pass

    def hexdigest(self) -> str:
        return self._sha.hexdigest()
