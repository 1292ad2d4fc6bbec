"""A control group with a bound on memory for one process, where this process may make one: version 1 or 2."""

from __future__ import annotations

import itertools
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from mlopt.host import cgroups

_NAME: Final = "mlopt-{process}-{number}"
_COUNTER: Final = itertools.count()
_PATIENCE: Final = 1.0  # seconds until the kernel has let go of a process that has ended


@dataclass(frozen=True, slots=True)
class Group:
    """A folder of the kernel's. It lies in this process' own group, or beside it where version 2 keeps processes out
    of groups that have others in them: whatever bounds those still bounds this."""

    folder: Path
    version: Literal[1, 2]

    @classmethod
    def make(cls, memory: int, *, root: Path = Path("/")) -> Self | None:
        """One that holds its processes to `memory` bytes and no swap; None where this process may make none."""
        for parent, version in _places(root):
            _clear(parent)
            folder = parent / _NAME.format(process=os.getpid(), number=next(_COUNTER))
            try:
                folder.mkdir()
            except OSError:
                continue
            group = cls(folder, version)
            try:
                group._bound(memory)
            except OSError:
                group.remove()
                continue
            return group
        return None

    @property
    def joining(self) -> Path:
        """The file to which a process writes its number."""
        return self.folder / "cgroup.procs"

    @property
    def kills(self) -> int:
        """How many of its processes the kernel has ended for want of memory."""
        said = (self.folder / ("memory.oom_control" if self.version == 1 else "memory.events")).read_text()
        found = re.search(r"^oom_kill ([0-9]+)$", said, re.MULTILINE)
        return int(found[1]) if found else 0

    def remove(self) -> None:
        """Once its processes have ended; what cannot be removed is left to the next run."""
        ends = time.monotonic() + _PATIENCE
        while self.folder.exists() and time.monotonic() < ends:
            with suppress(OSError):
                self.folder.rmdir()
                return
            time.sleep(0.01)

    def _bound(self, memory: int) -> None:
        bound, with_swap = (
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if self.version == 1
            else ("memory.max", "memory.swap.max")
        )
        (self.folder / bound).write_text(str(memory))
        swap = self.folder / with_swap
        if swap.exists():  # not where the kernel counts no swap
            swap.write_text(str(memory) if self.version == 1 else "0")


def _places(root: Path) -> list[tuple[Path, Literal[1, 2]]]:
    """Where a group may be made: this process' own one or, of version 2, the one right above it. No further up, for
    there what bounds this process would not bound the group."""
    own = sorted((one for one in cgroups(root, "memory") if one.is_dir()), key=lambda one: len(one.parts))
    first = [folder for folder in own if (folder / "memory.limit_in_bytes").is_file()][-1:]
    nearest = [folder for folder in own if (folder / "cgroup.subtree_control").is_file()][-2:]
    second = [folder for folder in nearest if "memory" in _words(folder / "cgroup.subtree_control")][-1:]
    return [*((folder, 1) for folder in first), *((folder, 2) for folder in second)]


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _clear(parent: Path) -> None:
    """Remove what runs that were killed have left."""
    for old in parent.glob(_NAME.format(process="*", number="*")):
        process = old.name.split("-")[1]
        if process.isdigit() and not Path("/proc", process).exists():
            with suppress(OSError):
                old.rmdir()
