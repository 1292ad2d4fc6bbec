"""A worker seen from the parent: commands with a time limit; a crash or a hang names the model and the signal."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, Self

from mlopt.array_files import save_arrays
from mlopt.errors import OutOfMemory, WorkerFailed
from mlopt.measure.limits import UNLIMITED, Cell, Limits, major_faults
from mlopt.units import format_bytes

_LIMIT: Final = 600.0
_STDERR_TAIL: Final = 400


@dataclass(slots=True)
class Worker:
    """One model in a process of its own. `subject` is what errors call it."""

    subject: str
    process: subprocess.Popen[str]
    log: IO[bytes]
    cell: Cell
    began: float  # when it was started, on the clock of time.perf_counter
    facts: dict[str, Any] = field(default_factory=dict)  # what it said on loading

    @classmethod
    def start(cls, subject: str, limits: Limits = UNLIMITED) -> Self:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        cell = Cell.make(limits)
        began = time.perf_counter()
        process = subprocess.Popen(
            cell.command("mlopt.measure.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        cell.close_on(process.pid)
        return cls(subject, process, log, cell, began)

    def ask(self, do: str, *, limit: float = _LIMIT, **arguments: object) -> dict[str, Any]:
        """Send one command and wait for its answer, at most `limit` seconds. Raises `WorkerFailed`."""
        assert self.process.stdin
        try:
            self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None
        reply: dict[str, Any] = json.loads(self._line(do, limit))
        if "error" in reply:
            if self.cell.starved(reply["error"]):
                raise self._starved(reply["error"].splitlines()[0])
            raise WorkerFailed(f"{self.subject} cannot be measured: {reply['error']}")
        return reply

    def _line(self, do: str, limit: float) -> str:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                faults = self.major_faults
                self.stop(kill=True)
                raise WorkerFailed(
                    f"The worker of {self.subject} did not answer {do!r} within {limit:.0f} s and was stopped.",
                    where=f"{faults} pages were read from disk again and again" if faults > limit else "",
                    next="compile without that recipe, or raise [method] seconds in the profile",
                )
        line = self.process.stdout.readline()
        if not line:
            raise self._dead()
        return line

    def _dead(self) -> WorkerFailed:
        code = self.process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.log.seek(0)
        tail = self.log.read().decode(errors="replace").strip()[-_STDERR_TAIL:]
        if self.cell.starved(tail):
            return self._starved(f"its process died with {how}")
        return WorkerFailed(f"The worker of {self.subject} died with {how}.", where=tail or "it printed nothing")

    def _starved(self, how: str) -> OutOfMemory:
        assert self.cell.limits.memory
        given = format_bytes(self.cell.limits.memory)
        return OutOfMemory(
            f"{self.subject} does not run in {given} of memory.",
            where=how,
            next="give it more (without a limit, mlopt bench says what it takes), or take a smaller model",
        )

    @property
    def major_faults(self) -> int:
        """How many pages it has had to read from disk so far: many while it computes tell of too little."""
        return major_faults(self.process.pid)

    def stop(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        elif self.process.stdin and not self.process.stdin.closed:
            with suppress(BrokenPipeError):  # what it was told last never reached one that is dead
                self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        self.cell.remove()


def write_feeds(folder: Path, feeds: list[dict[str, Any]]) -> Path:
    """Feeds as one .npz each: how a worker is given its inputs."""
    for number, feed in enumerate(feeds):
        save_arrays(folder, number, feed)
    return folder
