"""A process that holds one model and runs it when told to: `python -m mlopt.measure.worker`.

One JSON object per line on stdin, one per line back on a private copy of stdout (native libraries may print to
the ordinary one). A fresh process for each model is what makes its memory attributable.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from mlopt import registry
from mlopt.array_files import load_arrays
from mlopt.errors import MloptError, UnsupportedModel
from mlopt.measure import loadgen
from mlopt.measure.instructions import Counter
from mlopt.runners.runner import Accounted, OnDevice, OnGpu, Profiled, Runner

_KIB: Final = 1024
_BEFORE: Final = 0.01  # seconds before the first query arrives
_AWAKE: Final = 0.0002
# What to import of a distribution that is not called like its module.
_MODULES: Final = {"onnxruntime-gpu": "onnxruntime"}


def main() -> None:
    """Serve commands until stdin closes or `stop` comes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    Loaded.serve(sys.stdin, answers)


class Loaded:
    """One model in one runtime, with the feeds it is timed on."""

    def __init__(
        self, runtime: str, model: str, threads: int, single: str, offline: str, counting: bool = False
    ) -> None:
        self.counter = Counter.open() if counting else None
        kind: type[Runner] = registry.load("mlopt.runners", runtime)
        # OpenVINO's converter reports every import to its maker; without it openvino loads as it does in images.
        sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
        for distribution in kind.distributions:
            __import__(_MODULES.get(distribution, distribution).replace("-", "_"))
        self.kind, self.model, self.threads = kind, Path(model), threads
        self.single, self.offline = list(load_arrays(Path(single))), list(load_arrays(Path(offline)))
        after_import = memory("VmRSS")
        began = time.perf_counter()
        self.runner = kind(Path(model), threads=threads).__enter__()
        loaded = time.perf_counter()
        after_load = memory("VmRSS")
        self.runner.infer(self.single[0])
        answered = time.perf_counter()
        self.facts = {
            "load_time": loaded - began,
            "first_inference": answered - loaded,
            "marks": {"imported": began, "loaded": loaded, "answered": answered},
            "memory_after_import": after_import,
            "memory_after_load": after_load,
            "device": self.runner.device if isinstance(self.runner, OnDevice) else None,
            "gpu": dataclasses.asdict(self.runner.ran_on) if isinstance(self.runner, OnGpu) else None,
        }

    @classmethod
    def serve(cls, commands: IO[str], answers: IO[str]) -> None:
        loaded: Loaded | None = None
        for line in commands:
            command = json.loads(line)
            kind = command.pop("do")
            try:
                if kind == "load":
                    loaded = cls(**command)
                    reply: Mapping[str, Any] = loaded.facts
                elif kind == "stop" or loaded is None:
                    return
                elif kind == "query":
                    reply = loaded.query(**command)
                elif kind == "resident":
                    reply = loaded.resident(**command)
                elif kind == "batch":
                    reply = loaded.batch(**command)
                elif kind == "profile":
                    reply = loaded.profile(**command)
                elif kind == "arena":
                    reply = loaded.arena()
                elif kind == "serve":
                    reply = loaded.serve_at(**command)
                elif kind == "instructions":
                    reply = loaded.instructions(**command)
                elif kind == "loadgen":
                    reply = loadgen.run(runner=loaded.runner, feeds=loaded.single, **command)
                else:
                    reply = loaded.peak()
            except MloptError as error:
                reply = {"error": str(error)}
            answers.write(json.dumps(reply) + "\n")
            answers.flush()

    def query(self, count: int) -> dict[str, Any]:
        """`count` single-stream queries; each time is from call to complete outputs, feeds prepared before.

        `cpu` is the time for which the process was on a core meanwhile, all threads together.
        """
        clock, on_core, infer, feeds = time.perf_counter, time.process_time, self.runner.infer, self.single
        times, cpu = [], []
        for number in range(count):
            feed = feeds[number % len(feeds)]
            used = on_core()
            start = clock()
            infer(feed)
            times.append(clock() - start)
            cpu.append(on_core() - used)
        return {"seconds": times, "cpu": cpu}

    def resident(self, count: int) -> dict[str, Any]:
        """`count` queries whose inputs and outputs lie on the GPU, after one that does not count."""
        assert isinstance(self.runner, OnGpu)
        run, clock, times = self.runner.resident(self.single[0]), time.perf_counter, []
        for _ in range(count + 1):
            start = clock()
            run()
            times.append(clock() - start)
        return {"seconds": times[1:]}

    def batch(self, count: int) -> dict[str, Any]:
        """`count` queries of the offline batch."""
        feed = self.offline[0]
        start = time.perf_counter()
        for _ in range(count):
            self.runner.infer(feed)
        return {"seconds": time.perf_counter() - start}

    def instructions(self, count: int) -> dict[str, Any]:
        """Of each of `count` queries, all threads together; None where they cannot be counted."""
        if self.counter is None:
            return {"instructions": None}
        found = []
        for number in range(count):
            before = self.counter.read()
            self.runner.infer(self.single[number % len(self.single)])
            found.append(self.counter.read() - before)
        return {"instructions": found}

    def serve_at(self, arrivals: list[float], bound: float, late: int) -> dict[str, Any]:
        """Queries that arrive so many seconds from now, one at a time in that order; each time is from its arrival to
        complete outputs. Stops once `late` of them took longer than `bound`."""
        clock, infer, feeds = time.perf_counter, self.runner.infer, self.single
        times: list[float] = []
        begin = clock() + _BEFORE
        for number, due in enumerate(arrivals):
            _wait(begin + due)
            infer(feeds[number % len(feeds)])
            times.append(clock() - begin - due)
            late -= times[-1] > bound
            if late <= 0:
                break
        return {"seconds": times}

    def profile(self, count: int) -> dict[str, Any]:
        """Where the time of a query goes, by the runtime's own profiler; the last command, for the model is loaded anew
        in the place of what was there. Raises `UnsupportedModel` without one."""
        self.runner.__exit__(None, None, None)
        runner = self.kind(self.model, threads=self.threads)
        if not isinstance(runner, Profiled):
            raise UnsupportedModel(f"{self.kind.name} has no profiler that mlopt can read.")
        return dataclasses.asdict(runner.profile(self.single, count=count))

    def arena(self) -> dict[str, Any]:
        """What the runtime's own arena held at most over all feeds, None where it does not tell; a last command too."""
        self.runner.__exit__(None, None, None)
        runner = self.kind(self.model, threads=self.threads)
        feeds = [*self.single, *self.offline]
        return {"arena_peak": runner.arena_peak(feeds) if isinstance(runner, Accounted) else None}

    def peak(self) -> dict[str, Any]:
        """VmHWM, which unlike ru_maxrss is not inherited from the parent over fork and exec."""
        return {"peak_memory": memory("VmHWM")}


def _wait(until: float) -> None:
    """Asleep for the most of it: to wake takes the kernel up to a tenth of a millisecond."""
    while (left := until - time.perf_counter()) > 0:
        if left > _AWAKE:
            time.sleep(left - _AWAKE)


def memory(field: str) -> int:
    """A `Vm…` field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * _KIB
    raise OSError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    main()
