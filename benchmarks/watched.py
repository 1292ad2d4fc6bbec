"""A command's wall time and memory, and the machine it ran on: what every benchmark here reports the same way."""

from __future__ import annotations

import os
import platform
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended. `peak_memory` is in bytes, over the process and its descendants; `load` is the machine's
    over the last minute, of which the command itself is a part."""

    code: int
    seconds: float
    peak_memory: int
    load: float
    stdout: str
    stderr: str


def watch(command: list[str], *, cwd: Path | None = None, limit: float | None = None) -> Ended:
    """Run `command` to its end, or for `limit` seconds; raises `subprocess.TimeoutExpired`."""
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
    )
    with Peak(process.pid) as peak:
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
    return Ended(process.returncode, time.monotonic() - began, peak.most, os.getloadavg()[0], stdout, stderr)


class Peak:
    """Samples the proportional set size of a process tree, in which shared pages count once, every quarter of a second:
    more often would cost what is watched a tenth of a core."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self.done = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.done.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.done.wait(0.25):
            self.most = max(self.most, sum(_pss(pid) for pid in _tree(self.pid)))


def machine() -> str:
    """The processor, how many cores of it this process may use, and the kernel."""
    return f"{cpu()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}"


def cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _tree(pid: int) -> list[int]:
    found = [pid]
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += _tree(int(child))
    return found


def _pss(pid: int) -> int:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
