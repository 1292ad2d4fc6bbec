"""The clock's metrics, decided as early as the evidence allows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mlopt.gate.result import Verdict
from mlopt.gate.rounds import ROLES, Pair, Role
from mlopt.gate.sequence import Sequence
from mlopt.measure.percentiles import percentile
from mlopt.measurement import Interval

ERROR: Final = 0.02
"""The chance that a run of a gate is wrong on a candidate at the margin itself: half of it for each direction, shared
among its clocks. A failure takes two such runs."""
FEWEST: Final = 16
LEAST_SECONDS: Final = 2.0
"""Pairs of rounds, and time, before anything is decided: a shorter look sees one state of the machine."""
_TAIL: Final = 60  # queries of each before a 95th percentile is taken


@dataclass(slots=True)
class Clock:
    """One metric over the pairs of one run: candidate and control against the baseline, as logarithms of ratios."""

    metric: str
    margin: float
    error: float
    read: Callable[[Iterable[Pair], Role], float]
    pairs_each: Callable[[Pair], int]
    candidate: Sequence = field(init=False)
    control: Sequence = field(init=False)
    _waiting: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.candidate, self.control = Sequence(self.error), Sequence(self.error)

    def add(self, pair: Pair) -> None:
        """Two copies against two: a difference of one and a mean of two would lean to one side, for noise is skewed."""
        self._waiting.append(pair)
        if len(self._waiting) < self.pairs_each(pair):
            return
        value = {role: self.read(self._waiting, role) for role in ROLES}
        self.candidate.add((value["candidate"] + value["twin"] - value["baseline"] - value["control"]) / 2)
        self.control.add(value["control"] - value["baseline"])
        self._waiting.clear()

    @property
    def verdict(self) -> Verdict:
        """`fail`: proven slower than the margin allows, and than the slower of the two copies of the baseline.

        Copies that are proven to differ by more than the margin show that nothing can be told here.
        """
        limit = math.log1p(self.margin)
        if not self.candidate.values or self.control.low > limit or self.control.high < -limit:
            return "inconclusive"
        if self.candidate.side_of(limit + abs(self.control.median) / 2) == "above":
            return "fail"
        return "pass" if self.candidate.side_of(limit) == "below" else "inconclusive"

    @property
    def change(self) -> Interval | None:
        return _share(self.candidate)

    @property
    def control_change(self) -> Interval | None:
        return _share(self.control)

    @property
    def holds(self) -> float | None:
        """The margin that would have been proven, were the candidate as fast as the baseline."""
        widest = max(abs(self.control.low), abs(self.control.high))
        return math.expm1(widest) if math.isfinite(widest) else None


def clocks_for(margins: Mapping[str, float]) -> tuple[Clock, ...]:
    """The clocks of these margins by metric, each with its part of the error."""
    error = ERROR / max(1, len(margins))
    return tuple(Clock(name, margin, error, _READS[name], _EACH[name]) for name, margin in margins.items())


@dataclass(frozen=True, slots=True)
class Run:
    """What one run of the clocks found, and by role the seconds of every query and those on a core."""

    clocks: tuple[Clock, ...]
    pairs: int
    seconds: float
    queries: Mapping[Role, tuple[float, ...]]
    on_core: Mapping[Role, tuple[float, ...]]

    @property
    def failed(self) -> frozenset[str]:
        return frozenset(clock.metric for clock in self.clocks if clock.verdict == "fail")

    def verdict(self, metric: str) -> Verdict:
        return next(clock.verdict for clock in self.clocks if clock.metric == metric)


def watch(
    pairs: Iterable[Pair],
    margins: Mapping[str, float],
    *,
    seconds: float,
    doubted: frozenset[str] = frozenset(),
    clock: Callable[[], float] = time.monotonic,
) -> Run:
    """Read pairs until every metric is decided, one fails, or `seconds` are over.

    `doubted` are those that failed before: then it is they that have to be decided.
    """
    clocks = clocks_for(margins)
    queries: dict[Role, list[float]] = {role: [] for role in ROLES}
    on_core: dict[Role, list[float]] = {role: [] for role in ROLES}
    began, count, spent = clock(), 0, 0.0
    for count, pair in enumerate(pairs, 1):
        for one in clocks:
            one.add(pair)
        for role in ROLES:
            queries[role] += pair.queries(role)
            on_core[role] += [second for visit in pair.cpu[role] for second in visit]
        spent = clock() - began
        verdicts = {one.metric: one.verdict for one in clocks}
        if doubted:
            decided = all(verdicts[name] != "inconclusive" for name in doubted)
        else:
            decided = "fail" in verdicts.values() or "inconclusive" not in verdicts.values()
        if spent >= seconds or (decided and count >= FEWEST and spent >= LEAST_SECONDS):
            break
    return Run(clocks, count, spent, _frozen(queries), _frozen(on_core))


def settled(first: Run, again: Run | None, metric: str) -> Verdict:
    """A failure counts when a second run, in fresh processes, says the same; what only one of two runs says of it is
    noise. What the first left open because something else failed, the second may decide."""
    verdict = first.verdict(metric)
    if again is None:
        return "inconclusive" if verdict == "fail" else verdict
    second = again.verdict(metric)
    if "fail" in (verdict, second):
        return "fail" if verdict == second else "inconclusive"
    return "pass" if "pass" in (verdict, second) else "inconclusive"


def _frozen(by_role: Mapping[Role, list[float]]) -> dict[Role, tuple[float, ...]]:
    return {role: tuple(found) for role, found in by_role.items()}


def _typical(pairs: Iterable[Pair], role: Role) -> float:
    return statistics.fmean(_medians(pair.seconds[role]) for pair in pairs)


def _on_core(pairs: Iterable[Pair], role: Role) -> float:
    return statistics.fmean(_medians(pair.cpu[role]) for pair in pairs)


def _medians(visits: tuple[tuple[float, ...], ...]) -> float:
    return statistics.fmean(math.log(max(statistics.median(visit), 1e-9)) for visit in visits)


def _tail(pairs: Iterable[Pair], role: Role) -> float:
    return math.log(percentile(sorted(second for pair in pairs for second in pair.queries(role)), 95))


def _one(pair: Pair) -> int:
    return 1


def _enough(pair: Pair) -> int:
    return math.ceil(_TAIL / len(pair.queries("baseline")))


_READS: Final = {"latency-p50": _typical, "latency-p95": _tail, "cpu-time": _on_core}
_EACH: Final = {"latency-p50": _one, "latency-p95": _enough, "cpu-time": _one}


def _share(found: Sequence) -> Interval | None:
    """The median change as a share, with the bounds that decide; those of a median that moved between them too."""
    if not found.values:
        return None
    low, high = sorted((found.low, found.high))
    return Interval(
        math.expm1(found.median),
        math.expm1(low) if math.isfinite(low) else -1.0,
        math.expm1(high) if math.isfinite(high) else math.inf,
        f"median of {len(found.values)} mirrored pairs of rounds, confidence sequence {1 - found.error:.1%}",
    )
