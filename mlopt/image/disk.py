"""A full disk, said as one."""

from __future__ import annotations

import errno
from pathlib import Path

from mlopt.errors import NoSpaceLeft


class writing:  # noqa: N801 - reads as a word in `with writing(folder):`
    """Turns a full disk into `NoSpaceLeft`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceLeft(
                "The disk is full; the image was not written and the last one stays.",
                where=str(self._folder),
                next="free some space (`mlopt cache gc`), or set MLOPT_CACHE_DIR to another disk",
            ) from error
