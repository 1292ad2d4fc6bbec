"""Peak memory and instructions of fresh processes, as many as it takes to see that what differs is the model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.gate.result import Check
from mlopt.measure.interleave import Subject
from mlopt.measure.process import Worker, write_feeds

if TYPE_CHECKING:
    from mlopt.profile import Method

_PROBES: Final = 4  # processes of each, from which on no more are started
_STEADY: Final = 0.005  # copies of one model that differ by less leave nothing to ask
_QUERIES: Final = 20  # of which instructions are counted
_CLEAR: Final = 0.01  # so far from the margin one process is as good as four


@dataclass(slots=True)
class Peaks:
    """VmHWM in bytes of every process that ran a side."""

    baseline: list[int] = field(default_factory=list)
    candidate: list[int] = field(default_factory=list)

    @property
    def change(self) -> float:
        """Of the lowest peaks: what a process takes above that is its allocator's luck (2.5 % were seen)."""
        return min(self.candidate) / min(self.baseline) - 1

    def clear_of(self, margin: float) -> bool:
        steady = max(self.baseline) / min(self.baseline) - 1 < _STEADY
        return (steady and abs(self.change - margin) > _CLEAR) or len(self.candidate) >= _PROBES

    def check(self, margin: float) -> Check:
        return Check(
            "peak-memory",
            "regression",
            "fail" if self.change > margin else "pass",
            "bytes",
            min(self.baseline),
            min(self.candidate),
            None,
            margin,
            f"lowest VmHWM of {len(self.candidate)} and {len(self.baseline)} fresh processes",
        )


def probe(
    peaks: Peaks,
    candidate: Subject,
    baseline: Subject,
    *,
    margin: float,
    feeds: Sequence[Mapping[str, Any]],
    offline: Mapping[str, Any],
    method: Method,
) -> None:
    """Start fresh processes of both sides in turn until the verdict is clear of the margin. Raises `WorkerFailed`."""
    with tempfile.TemporaryDirectory(prefix="mlopt-gate-") as scratch:
        single = write_feeds(Path(scratch) / "single", [dict(feed) for feed in feeds])
        batch = write_feeds(Path(scratch) / "offline", [dict(offline)])
        while not peaks.clear_of(margin):
            for seen, subject in ((peaks.candidate, candidate), (peaks.baseline, baseline)):
                seen.append(_peak(subject, single, batch, method))


def instructions(
    candidate: Subject, baseline: Subject, *, feeds: Sequence[Mapping[str, Any]], method: Method
) -> tuple[int, int] | None:
    """Of a query of each: the fewest of several, for what comes on top is not the model's. None where the processor's
    counters cannot be read. Raises `WorkerFailed`."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mlopt-gate-") as scratch:
        single = write_feeds(Path(scratch) / "single", [dict(feed) for feed in feeds])
        for subject in (candidate, baseline):
            with _loaded(subject, single, single, method, counting=True) as worker:
                worker.ask("query", count=max(1, method.warm_up))
                counts = worker.ask("instructions", count=_QUERIES)["instructions"]
            if not counts:
                return None
            found.append(min(counts))
    return found[0], found[1]


def _peak(subject: Subject, single: Path, offline: Path, method: Method) -> int:
    with _loaded(subject, single, offline, method) as worker:
        worker.ask("query", count=max(1, method.warm_up))
        worker.ask("batch", count=1)
        return int(worker.ask("peak")["peak_memory"])


@contextmanager
def _loaded(
    subject: Subject, single: Path, offline: Path, method: Method, *, counting: bool = False
) -> Iterator[Worker]:
    worker = Worker.start(subject.name)
    try:
        worker.ask(
            "load",
            runtime=subject.runtime,
            model=str(subject.artifact.main),
            threads=method.threads,
            single=str(single),
            offline=str(offline),
            counting=counting,
        )
        yield worker
    finally:
        worker.stop()
