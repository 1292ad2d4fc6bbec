"""One model in a process of its own, outside the rounds: for how it starts, and for how it serves."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.intervals import FEWEST, of_median
from mlopt.measure.limits import UNLIMITED, Limits, forget
from mlopt.measure.process import Worker, write_feeds
from mlopt.measurement import Measurement, Starts

if TYPE_CHECKING:
    from mlopt.measure.interleave import Subject
    from mlopt.profile import Method

_STARTS: Final = 3
# The first query of a shape teaches ONNX Runtime what that takes; from the second on it holds all of it in one piece.
_TWICE: Final = 2


@contextmanager
def loaded(
    subject: Subject, feeds: Sequence[Mapping[str, Any]], *, threads: int, limits: Limits = UNLIMITED
) -> Iterator[Worker]:
    """A fresh process that has loaded the model and answered once. Raises `WorkerFailed`."""
    with tempfile.TemporaryDirectory(prefix="mlopt-measure-") as scratch:
        folder = str(write_feeds(Path(scratch) / "feeds", [dict(feed) for feed in feeds]))
        with started(subject, folder, folder, threads=threads, limits=limits) as worker:
            yield worker


def cold_start(
    subject: Subject,
    feeds: Sequence[Mapping[str, Any]],
    *,
    threads: int,
    files: Sequence[Path] = (),
    limits: Limits = UNLIMITED,
) -> float:
    """Seconds from starting a process to its first complete answer: the median of three fresh ones.

    `files` of the model are dropped from the page cache before each. Python and the runtime are part of it, and their
    libraries, which other processes hold, stay in memory. Raises `WorkerFailed`.
    """
    times = []
    with tempfile.TemporaryDirectory(prefix="mlopt-measure-") as scratch:
        folder = str(write_feeds(Path(scratch) / "feeds", [dict(feeds[0])]))
        for _ in range(_STARTS):
            forget(files)
            with started(subject, folder, folder, threads=threads, limits=limits) as worker:
                times.append(time.perf_counter() - worker.began)
    return statistics.median(times)


@dataclass(frozen=True, slots=True)
class Given:
    """What fresh processes are run on: queries, one offline batch, and how."""

    single: Sequence[Mapping[str, Any]]
    offline: Mapping[str, Any]
    method: Method
    limits: Limits = UNLIMITED

    @property
    def queries(self) -> Sequence[Mapping[str, Any]]:
        """Those of the scenario."""
        return [self.offline] if self.method.scenario == "offline" else self.single

    @property
    def batch(self) -> int:
        """The samples of one query."""
        return rows_of(self.queries[0], self.method.query_batch)

    @contextmanager
    def written(self) -> Iterator[tuple[str, str]]:
        """Folders with the queries of the scenario and with the offline batch, as workers read them."""
        queries = self.queries
        with tempfile.TemporaryDirectory(prefix="mlopt-measure-") as scratch:
            single = write_feeds(Path(scratch) / "single", [dict(feed) for feed in queries])
            yield str(single), str(write_feeds(Path(scratch) / "offline", [dict(self.offline)]))


def rows_of(feeds: Mapping[str, Any], otherwise: int) -> int:
    """The samples of one query: a model that fixes its batch takes not what the method says."""
    return len(feeds[next(iter(feeds))]) if feeds else otherwise


@dataclass(slots=True)
class Fresh:
    """Fresh processes that ran one model, alone and one after the other: how long each loaded, and its peak."""

    load_times: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def add(self, subject: Subject, folders: tuple[str, str], given: Given) -> None:
        """One more, which answers a few queries and an offline batch. Raises `WorkerFailed`."""
        with started(subject, *folders, threads=given.method.threads, limits=given.limits) as worker:
            worker.ask("query", count=max(_TWICE, given.method.warm_up))
            worker.ask("batch", count=_TWICE)
            self.load_times.append(worker.facts["load_time"])
            self.peaks.append(worker.ask("peak")["peak_memory"])

    @property
    def starts(self) -> Starts:
        """With the intervals of their medians."""
        count = len(self.peaks)
        told = f"median of {count} fresh processes" if count > 1 else "one fresh process"
        bounds = (of_median(values) for values in (self.load_times, self.peaks))
        load, peak = (replace(bound, method=f"{told}, {bound.method}") for bound in bounds)
        return Starts(tuple(self.load_times), tuple(self.peaks), load, peak)


def started_again(measurement: Measurement, subject: Subject, given: Given, *, count: int = FEWEST) -> Measurement:
    """With load time and peak memory of `count` fresh processes: those that it has, and as many more as it takes.

    Raises `WorkerFailed`.
    """
    fresh = Fresh(list(measurement.starts.load_times), list(measurement.starts.peaks))
    with given.written() as folders:
        while len(fresh.peaks) < count:
            fresh.add(subject, folders, given)
    found = fresh.starts
    load, peak = found.load_time.value, int(found.peak_memory.value)
    return replace(measurement, load_time=load, peak_memory=peak, starts=found)


def arena_peak(subject: Subject, given: Given) -> int | None:
    """What the runtime's own arena held at most, counted by the runtime; None where it does not tell.

    Raises `WorkerFailed`.
    """
    threads, limits = given.method.threads, given.limits
    with given.written() as folders, started(subject, *folders, threads=threads, limits=limits) as worker:
        found: int | None = worker.ask("arena")["arena_peak"]
        return found


@dataclass(frozen=True, slots=True)
class Shared:
    """What several processes with the same model take: `together` (PSS: what is shared counts once), and `own`, what
    each has that no other process has (the median): a further one costs about that. In bytes."""

    workers: int
    together: int
    own: int


def shared(
    subject: Subject, feeds: Sequence[Mapping[str, Any]], *, workers: int, threads: int, limits: Limits = UNLIMITED
) -> Shared:
    """Memory of so many fresh processes that have loaded the model and answered. Raises `WorkerFailed`."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlopt-measure-")))
        folder = str(write_feeds(scratch / "feeds", [dict(feed) for feed in feeds]))
        running = [
            stack.enter_context(started(subject, folder, folder, threads=threads, limits=limits))
            for _ in range(workers)
        ]
        for worker in running:
            worker.ask("query", count=len(feeds))
        taken = [pages_of(worker.process.pid) for worker in running]
    own = [one["Private_Clean"] + one["Private_Dirty"] for one in taken]
    return Shared(workers, sum(one["Pss"] for one in taken), int(statistics.median(own)))


def pages_of(process: int) -> dict[str, int]:
    """Bytes of a process' memory by kind, summed over all that it has mapped."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    parts = (line.split() for line in lines)
    return {name.rstrip(":"): int(kibibytes) * 1024 for name, kibibytes, _ in parts}


@contextmanager
def started(
    subject: Subject,
    single: str,
    offline: str,
    *,
    threads: int,
    limits: Limits = UNLIMITED,
    counting: bool = False,
) -> Iterator[Worker]:
    """A fresh process that has loaded the model, with feeds from these folders; `worker.facts` say what that took."""
    worker = Worker.start(subject.name, limits)
    try:
        load(worker, subject, single, offline, threads=threads, counting=counting)
        yield worker
    finally:
        worker.stop()


def load(
    worker: Worker, subject: Subject, single: str, offline: str, *, threads: int, counting: bool = False
) -> dict[str, Any]:
    """Have a worker load a model and answer once; what it says of that, which `worker.facts` hold too."""
    worker.facts = worker.ask(
        "load",
        runtime=subject.runtime,
        model=str(subject.artifact.main),
        threads=threads,
        single=single,
        offline=offline,
        counting=counting,
    )
    return worker.facts
