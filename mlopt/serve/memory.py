"""How much memory the server takes and may take, so that a model too many is refused with a sentence, not killed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_NO_LIMIT: Final = 1 << 60  # what version 1 of cgroups says where there is none


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def container_limit() -> int | None:
    """Bytes that the container may take (cgroup v2 or v1); None where nobody said so."""
    for path in _LIMITS:
        try:
            found = int(path.read_text())
        except (OSError, ValueError):  # absent, or "max"
            continue
        return found if found < _NO_LIMIT else None
    return None


def size_of(folder: Path) -> int:
    """Bytes of the files of a model's folder: the least that it takes once loaded."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def mib(count: int) -> str:
    """For people.

    >>> mib(3 << 20)
    '3 MiB'
    """
    return f"{count / (1 << 20):.0f} MiB"
