"""The disk of the store: a folder for what is not finished, and a full one said as one."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from mlopt.errors import NoSpaceLeft


def unfinished(root: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of the store at `root`, for `with`. What a kill leaves of it goes with the scratch folders
    of other dead processes (`sweep` of mlopt/store.py knows them by their name)."""
    parent = root / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=parent)


class writing:  # noqa: N801 - reads as a word in `with writing(folder):`
    """Turns a full disk into `NoSpaceLeft`. `elsewhere` is how another disk is named."""

    def __init__(self, folder: Path, *, elsewhere: str = "set MLOPT_CACHE_DIR to another disk") -> None:
        self._folder, self._elsewhere = folder, elsewhere

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceLeft(
                "The disk is full; the image was not written and the last one stays.",
                where=str(self._folder),
                next=f"free some space (`mlopt cache gc`), or {self._elsewhere}",
            ) from error
