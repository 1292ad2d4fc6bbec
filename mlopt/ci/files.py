"""Outputs on the disk: each whole or not at all; one that cannot be written loses no other."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from mlopt.errors import Misused, MloptError, NoSpaceLeft, StoreUnusable

_STREAMS: Final = (1, 2)
_MADE_BY: Final = b'<meta name="generator" content="mlopt '
_HEAD: Final = 4096  # bytes in which a page of ours says so


def put_all(outputs: Iterable[tuple[Path, str]]) -> list[MloptError]:
    """What could not be written: one output that cannot be must not lose the others, or the verdict."""
    failed = []
    for path, content in outputs:
        try:
            _put(path, content)
        except OSError as error:
            failed.append(_unwritable(path, error))
    return failed


def put_page(path: Path, page: str) -> None:
    """A page, in place of nothing or of one that mlopt made. Raises `Misused` where another file is, and what cannot be
    written."""
    if _is_foreign(path):
        raise Misused(
            "There is a file here that is no page of mlopt's, and it was left as it is.",
            where=str(path),
            next="give --html another name, or remove that file",
        )
    for problem in put_all([(path, page)]):
        raise problem


def append(path: Path, content: str) -> list[MloptError]:
    """To what others write as well; gives what went wrong."""
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(content)
    except OSError as error:
        return [_unwritable(path, error)]
    return []


def _put(path: Path, content: str) -> None:
    """Streams and devices take it as it comes; a file is replaced, where a link leads."""
    try:
        there = path.stat()
    except FileNotFoundError:
        _replace(Path(os.path.realpath(path)), content)
        return
    if (stream := _stream_of(there)) is not None:  # /dev/stdout may be a file that holds the verdict already
        with open(stream, "w", encoding="utf-8", closefd=False) as opened:
            opened.write(content)
    elif stat.S_ISREG(there.st_mode):
        _replace(Path(os.path.realpath(path)), content)
    else:
        path.write_text(content, encoding="utf-8")


def _is_foreign(path: Path) -> bool:
    try:
        there = path.stat()
        if not stat.S_ISREG(there.st_mode) or not there.st_size or _stream_of(there) is not None:
            return False
        with path.open("rb") as opened:
            return _MADE_BY not in opened.read(_HEAD)
    except OSError:  # nothing there, or what writing will name
        return False


def _stream_of(there: os.stat_result) -> int | None:
    """Which of stdout and stderr this is."""
    for stream in _STREAMS:
        with suppress(OSError):  # closed
            if os.path.samestat(there, os.fstat(stream)):
                return stream
    return None


def _replace(path: Path, content: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(content, encoding="utf-8")
        os.replace(scratch, path)
    finally:
        with suppress(OSError):  # renamed already, or its folder is none
            scratch.unlink()


def _unwritable(path: Path, error: OSError) -> MloptError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceLeft("The disk is full; what was there before is untouched.", where=str(path), next="free space")
    return StoreUnusable(f"This output cannot be written: {error.strerror}.", where=str(path), next="give another file")
