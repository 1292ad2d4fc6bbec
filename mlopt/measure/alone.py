"""One model in a process of its own, outside the rounds: for how it starts, and for how it serves."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.measure.limits import UNLIMITED, Limits, forget
from mlopt.measure.process import Worker, write_feeds

if TYPE_CHECKING:
    from mlopt.measure.interleave import Subject

_STARTS: Final = 3


@contextmanager
def loaded(
    subject: Subject, feeds: Sequence[Mapping[str, Any]], *, threads: int, limits: Limits = UNLIMITED
) -> Iterator[Worker]:
    """A fresh process that has loaded the model and answered once. Raises `WorkerFailed`."""
    with tempfile.TemporaryDirectory(prefix="mlopt-measure-") as scratch:
        folder = str(write_feeds(Path(scratch) / "feeds", [dict(feed) for feed in feeds]))
        with _started(subject, folder, threads, limits) as worker:
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
            with _started(subject, folder, threads, limits) as worker:
                times.append(time.perf_counter() - worker.began)
    return statistics.median(times)


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
        started = [stack.enter_context(_started(subject, folder, threads, limits)) for _ in range(workers)]
        for worker in started:
            worker.ask("query", count=len(feeds))
        taken = [pages_of(worker.process.pid) for worker in started]
    own = [one["Private_Clean"] + one["Private_Dirty"] for one in taken]
    return Shared(workers, sum(one["Pss"] for one in taken), int(statistics.median(own)))


def pages_of(process: int) -> dict[str, int]:
    """Bytes of a process' memory by kind, summed over all that it has mapped."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    parts = (line.split() for line in lines)
    return {name.rstrip(":"): int(kibibytes) * 1024 for name, kibibytes, _ in parts}


@contextmanager
def _started(subject: Subject, folder: str, threads: int, limits: Limits) -> Iterator[Worker]:
    worker = Worker.start(subject.name, limits)
    try:
        model = str(subject.artifact.main)
        worker.ask("load", runtime=subject.runtime, model=model, threads=threads, single=folder, offline=folder)
        yield worker
    finally:
        worker.stop()
