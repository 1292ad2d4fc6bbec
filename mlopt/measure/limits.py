"""What a measured process may use here, where that is less than this machine has: cores, memory, instructions."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Self

from mlopt.measure.cgroup import Group
from mlopt.units import Bytes, format_bytes

if TYPE_CHECKING:
    from mlopt.host import Machine
    from mlopt.measurement import Grade

_LOOK: Final = 0.2  # seconds of looking for quiet cores
_PYTHON: Final = (sys.executable, "-m")
_JOIN: Final = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')
# How libraries say that they got none: C++ and its arenas, Python, OpenBLAS, threads without a stack.
_STARVED: Final = ("bad_alloc", "memory", "Memory", "start new thread")


@dataclass(frozen=True, slots=True)
class Limits:
    """None and nothing: as much as there is. `python` runs a module by its name, on other instructions than this
    processor's where it is not the plain one."""

    cores: int | None = None
    memory: Bytes | None = None
    python: tuple[str, ...] = _PYTHON

    @property
    def grade(self) -> Grade:
        return "measured" if self.python == _PYTHON else "emulated"


UNLIMITED: Final = Limits()


@dataclass(frozen=True, slots=True)
class Applied:
    """A limit that was asked for: `how` it was applied, or why not."""

    limit: Literal["cores", "memory", "instructions"]
    asked: str
    applied: bool
    how: str


def possible(cores: int | None, memory: Bytes | None, machine: Machine) -> tuple[Limits, tuple[Applied, ...]]:
    """What of these can be applied on this machine, and of each that was asked for how, or why not."""
    found, told = UNLIMITED, []
    if cores is not None:
        fits = cores <= machine.cores
        found = Limits(cores if fits else None)
        how = "affinity" if fits else f"this process may run on {_count(machine.cores)} only"
        told.append(Applied("cores", str(cores), fits, how))
    if memory is not None:
        has = machine.memory
        fits = has is None or memory < has
        found = Limits(found.cores, memory if fits else None)
        how = _memory_by(memory) if fits else f"this machine has {format_bytes(has or 0)}"
        told.append(Applied("memory", format_bytes(memory), fits, how))
    return found, tuple(told)


@dataclass(slots=True)
class Cell:
    """The bounds around one worker. `group` is None where no memory is bounded, or by the process itself; `cores` are
    chosen before it starts, for looking takes a while, and empty where it may use all."""

    limits: Limits
    group: Group | None
    cores: Collection[int]

    @classmethod
    def make(cls, limits: Limits) -> Self:
        cores = quietest(limits.cores) if limits.cores else ()
        return cls(limits, Group.make(limits.memory) if limits.memory else None, cores)

    def command(self, module: str) -> list[str]:
        """What starts the module in here."""
        join = (*_JOIN, str(self.group.joining)) if self.group else ()
        return [*join, *self.limits.python, module]

    def close_on(self, process: int) -> None:
        """Bound what is bounded from outside, of a process that has just been started."""
        if self.cores:
            os.sched_setaffinity(process, self.cores)
        if self.limits.memory and not self.group:
            resource.prlimit(process, resource.RLIMIT_DATA, (self.limits.memory, self.limits.memory))

    def starved(self, said: str) -> bool:
        """Whether it was for want of memory that a process ended, or failed with these words."""
        if not self.limits.memory:
            return False
        return bool(self.group and self.group.kills) or any(word in said for word in _STARVED)

    def remove(self) -> None:
        if self.group:
            self.group.remove()


def quietest(count: int) -> set[int]:
    """So many of the cores that this process may use, those with the least work at the moment."""
    mine = os.sched_getaffinity(0)
    if count >= len(mine):
        return mine
    before = _busy()
    time.sleep(_LOOK)
    after = _busy()
    return set(sorted(mine, key=lambda core: (after.get(core, 0) - before.get(core, 0), core))[:count])


def major_faults(process: int) -> int:
    """How many pages a process has had to read from disk so far."""
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[9])
    return 0


def forget(files: Iterable[Path]) -> None:
    """Ask the kernel to drop files from its cache; what it may not, it keeps."""
    for file in files:
        opened = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(opened)


def _memory_by(memory: Bytes) -> str:
    """How memory is bounded here: found by making a group, and removing it."""
    if group := Group.make(memory):
        group.remove()
        return f"control group (version {group.version}); what others hold of libraries is not counted"
    return "RLIMIT_DATA, for no control group can be made here: it counts what is asked for, not what is used"


def _count(cores: int) -> str:
    return f"{cores} core{'s' if cores > 1 else ''}"


def _busy() -> dict[int, int]:
    """Ticks that each core has worked, or was taken away by the machine's host."""
    found = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, _idle, _wait, interrupts, soft, stolen = map(int, ticks[:8])
            found[int(name[3:])] = user + nice + system + interrupts + soft + stolen
    return found
