"""A full disk, said as one."""

from __future__ import annotations

import errno
from pathlib import Path

from mlopt.errors import NoSpaceLeft


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
