"""The inside of one model: its memory while it loads and runs, and its time layer by layer. Judges nothing."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.errors import MloptError
from mlopt.insight import Anatomy, Kernel, Layers, MemoryTrace
from mlopt.measure.alone import rows_of
from mlopt.measure.layers import layers_of
from mlopt.measure.limits import UNLIMITED, Limits
from mlopt.measure.process import Worker, write_feeds
from mlopt.measure.work import Graph
from mlopt.measurement import Grade

if TYPE_CHECKING:
    from mlopt.measure.interleave import Subject

_EVERY: Final = 0.002  # seconds between two readings of memory
_POINTS: Final = 240  # that are kept
_RUNNING, _PROFILED = 0.3, 0.4  # seconds of queries, about
_MOST: Final = 50
_EVENTS: Final = 20_000  # that a profiler is let write
_LIMIT: Final = 60.0


def look_inside(
    subject: Subject,
    feeds: Sequence[Mapping[str, Any]],
    *,
    threads: int,
    batch: int,
    device: str,
    limits: Limits = UNLIMITED,
) -> Anatomy:
    """In a process of its own, which computes alone. What cannot be had is said in `why_not`, and nothing is raised."""
    memory: MemoryTrace | None = None
    try:
        graph = Graph.read(subject.artifact.main, {name: value.shape for name, value in feeds[0].items()})
        with tempfile.TemporaryDirectory(prefix="mlopt-inside-") as scratch:
            folder = str(write_feeds(Path(scratch) / "feeds", [dict(feed) for feed in feeds]))
            worker = Worker.start(subject.name, limits)
            try:
                with _sampled(worker.process.pid) as readings:
                    facts = worker.ask(
                        "load",
                        runtime=subject.runtime,
                        model=str(subject.artifact.main),
                        threads=threads,
                        single=folder,
                        offline=folder,
                        limit=_LIMIT,
                    )
                    count = _fitting(_RUNNING, facts["first_inference"], most=_MOST * 4)
                    times = worker.ask("query", count=count, limit=_LIMIT)["seconds"]
                    marks = {**facts["marks"], "done": time.perf_counter()}
                memory = readings.trace(marks, facts["device"] or device, limits.grade)
                count = _fitting(_PROFILED, min(times), most=min(_MOST, _EVENTS // len(graph.nodes)))
                said = worker.ask("profile", count=count, limit=_LIMIT)
            finally:
                worker.stop()
    except MloptError as error:
        return Anatomy(subject.name, None, memory, error.what)
    kernels = [Kernel(**{**kernel, "anchors": tuple(kernel["anchors"])}) for kernel in said["kernels"]]
    if not kernels:
        return Anatomy(subject.name, None, memory, f"{subject.runtime} runs no layer of it, all is done on loading.")
    layers, silent = layers_of(kernels, graph)
    return Anatomy(
        subject.name,
        Layers(
            device=facts["device"] or device,
            grade=limits.grade,
            runtime=subject.runtime,
            threads=threads,
            batch=rows_of(feeds[0], batch),
            queries=said["queries"],
            seconds=said["seconds"],
            layers=layers,
            silent=silent,
            method=said["method"],
        ),
        memory,
        "",
    )


def _fitting(seconds: float, each: float, *, most: int) -> int:
    return max(1, min(most, int(seconds / max(each, 1e-6))))


@dataclass(slots=True)
class _Readings:
    began: float
    times: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)

    def trace(self, marks: Mapping[str, float], device: str, grade: Grade) -> MemoryTrace:
        """At most so many points; of several that become one the largest is kept."""
        size = max(1, -(-len(self.times) // _POINTS))
        groups = [range(start, min(start + size, len(self.times))) for start in range(0, len(self.times), size)]
        return MemoryTrace(
            seconds=tuple(self.times[group[-1]] - self.began for group in groups),
            resident=tuple(max(self.resident[number] for number in group) for group in groups),
            marks=tuple((name, at - self.began) for name, at in marks.items()),
            device=device,
            grade=grade,
            method=f"resident pages of a fresh process, read from /proc every {_EVERY * 1e3:g} ms",
        )


@contextmanager
def _sampled(pid: int) -> Iterator[_Readings]:
    """Reads how much memory a process holds, in a thread of this one, while the block runs."""
    page, statm = os.sysconf("SC_PAGE_SIZE"), Path(f"/proc/{pid}/statm")
    readings, stop = _Readings(time.perf_counter()), threading.Event()

    def read() -> None:
        with suppress(OSError, IndexError):  # the process is gone: what it held until then is known
            while not stop.wait(_EVERY):
                readings.resident.append(int(statm.read_text().split()[1]) * page)
                readings.times.append(time.perf_counter())

    thread = threading.Thread(target=read, name="mlopt-memory", daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
