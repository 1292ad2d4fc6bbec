"""A worker seen from the parent: commands with a time limit; a crash or a hang names the model and the signal."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self

from mlopt.array_files import save_arrays
from mlopt.errors import WorkerFailed

_LIMIT: Final = 600.0
_STDERR_TAIL: Final = 400


@dataclass(slots=True)
class Worker:
    """One model in a process of its own. `subject` is what errors call it."""

    subject: str
    process: subprocess.Popen[str]
    log: IO[bytes]

    @classmethod
    def start(cls, subject: str) -> Self:
        log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker
        process = subprocess.Popen(
            [sys.executable, "-m", "mlopt.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
        )
        return cls(subject, process, log)

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
            raise WorkerFailed(f"{self.subject} cannot be measured: {reply['error']}")
        return reply

    def _line(self, do: str, limit: float) -> str:
        assert self.process.stdout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.stop(kill=True)
                raise WorkerFailed(
                    f"The worker of {self.subject} did not answer {do!r} within {limit:.0f} s and was stopped.",
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
        return WorkerFailed(f"The worker of {self.subject} died with {how}.", where=tail or "it printed nothing")

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


def write_feeds(folder: Path, feeds: list[dict[str, Any]]) -> Path:
    """Feeds as one .npz each: how a worker is given its inputs."""
    for number, feed in enumerate(feeds):
        save_arrays(folder, number, feed)
    return folder
