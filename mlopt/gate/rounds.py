"""Candidate and baseline, two copies of each, loaded side by side and visited in turn."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from mlopt.measure.gpu import Watch
from mlopt.measure.interleave import Subject
from mlopt.measure.limits import quietest
from mlopt.measure.process import Worker, write_feeds

if TYPE_CHECKING:
    from mlopt.profile import Method

Role = Literal["baseline", "candidate", "twin", "control"]
"""`twin` is a second copy of the candidate, `control` one of the baseline."""
ROLES: Final[tuple[Role, ...]] = ("baseline", "candidate", "twin", "control")
_CANDIDATE_FIRST: Final[tuple[Role, ...]] = ("candidate", "baseline", "control", "twin")
_VISIT: Final = 0.01  # seconds that one visit should last
_FEWEST, _MOST = 3, 20  # queries per visit
_LIMIT: Final = 300.0  # seconds without an answer after which a worker hangs


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rounds in mirrored order: by role the seconds of the queries of both visits, and those on a core."""

    seconds: Mapping[Role, tuple[tuple[float, ...], tuple[float, ...]]]
    cpu: Mapping[Role, tuple[tuple[float, ...], tuple[float, ...]]]

    def queries(self, role: Role) -> tuple[float, ...]:
        first, second = self.seconds[role]
        return first + second


@dataclass(slots=True)
class SideBySide:
    """Four workers with a model each, one computing at a time; a context manager.

    Every pair of rounds draws an order by chance and visits all four in it, then in the opposite one: drift cancels,
    and were all the same model, which two of them are slower in a pair would be nothing but that draw. They are loaded
    in mirrored order too, since the first of several processes was seen to stay slower than the last (1.5 %), and an
    odd `seed` begins with the other model. All share the same cores, as many as they have threads: left to itself the
    scheduler keeps each where it was, and the one beside a stranger's work is slower all the time. `watch` reads the
    card after each pair, where one of the two models runs on a GPU.

    Raises `WorkerFailed`, which names the one that crashed or hung.
    """

    candidate: Subject
    baseline: Subject
    feeds: Sequence[Mapping[str, Any]]
    offline: Mapping[str, Any]
    method: Method
    seed: int
    limit: float = _LIMIT
    facts: dict[Role, dict[str, Any]] = field(default_factory=dict)
    queries: int = _FEWEST
    watch: Watch | None = None
    _workers: dict[Role, Worker] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlopt-gate-")))
            single = write_feeds(scratch / "single", [dict(feed) for feed in self.feeds])
            offline = write_feeds(scratch / "offline", [dict(self.offline)])
            cores = quietest(self.method.threads)
            for role in _CANDIDATE_FIRST if self.seed % 2 else ROLES:
                subject = self.candidate if role in ("candidate", "twin") else self.baseline
                worker = self._workers[role] = Worker.start(subject.name)
                stack.callback(worker.stop)
                os.sched_setaffinity(worker.process.pid, cores)
                self.facts[role] = self._ask(
                    role,
                    "load",
                    runtime=subject.runtime,
                    model=str(subject.artifact.main),
                    threads=self.method.threads,
                    single=str(single),
                    offline=str(offline),
                )
            self.watch = next((Watch.of(facts["gpu"]) for facts in self.facts.values() if facts["gpu"]), None)
            self._warm_up()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def pairs(self) -> Iterator[Pair]:
        """Without end; whoever reads them says when it is enough."""
        draw = random.Random(self.seed)  # noqa: S311 - statistics, not secrets
        while True:
            order = draw.sample(ROLES, len(ROLES))
            with self.watch.round() if self.watch else nullcontext():
                visits = [(role, self._ask(role, "query", count=self.queries)) for role in (*order, *order[::-1])]
            yield Pair(_both(visits, "seconds"), _both(visits, "cpu"))

    def peak_memory(self, role: Role) -> int:
        """VmHWM of the process so far, in bytes."""
        return int(self._ask(role, "peak")["peak_memory"])

    def major_faults(self, role: Role) -> int:
        """How many pages the process has had to read from disk so far."""
        return self._workers[role].major_faults

    def batch(self, role: Role) -> float:
        """Seconds of one query of the offline batch, after one in which memory is allocated."""
        self._ask(role, "batch", count=1)
        return float(self._ask(role, "batch", count=1)["seconds"])

    def process(self, role: Role) -> int:
        """The worker's process."""
        return self._workers[role].process.pid

    def _ask(self, role: Role, do: str, **arguments: object) -> dict[str, Any]:
        return self._workers[role].ask(do, limit=self.limit, **arguments)

    def _warm_up(self) -> None:
        count = max(1, self.method.warm_up)
        times = [statistics.median(self._ask(role, "query", count=count)["seconds"]) for role in ROLES]
        self.queries = min(_MOST, max(_FEWEST, int(_VISIT / max(*times, 1e-6))))


def _both(visits: Sequence[tuple[Role, dict[str, Any]]], key: str) -> dict[Role, Any]:
    return {role: tuple(tuple(reply[key]) for who, reply in visits if who == role) for role in ROLES}
