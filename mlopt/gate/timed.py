"""Clocks and memory of candidate and baseline side by side, with the second run that a failure takes."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mlopt.gate.clocks import Run, settled, watch
from mlopt.gate.memory import Processes, probe
from mlopt.gate.result import Check, Timing
from mlopt.gate.rounds import ROLES, Role, SideBySide
from mlopt.intervals import median_high
from mlopt.measure.alone import Fresh, Given
from mlopt.measure.gpu import Watch
from mlopt.measure.interleave import Subject
from mlopt.measure.percentiles import percentile, tail_high
from mlopt.measurement import Gpu, Interval, Latency, Measurement

if TYPE_CHECKING:
    from mlopt.profile import Margins, Method

_CLOCKS: Final = ("latency-p50", "latency-p95", "cpu-time")
_READ_AT: Final = {"latency-p50": 50.0, "latency-p95": 95.0}


@dataclass(frozen=True, slots=True)
class Feeds:
    """What both are run on: queries of the scenario, and one offline batch."""

    single: Sequence[Mapping[str, Any]]
    offline: Mapping[str, Any]
    batch: int
    offline_batch: int


@dataclass(slots=True)
class Timed:
    """All that the runs found."""

    runs: list[Run] = field(default_factory=list)
    watches: list[Watch] = field(default_factory=list)
    processes: Processes = field(default_factory=Processes)
    facts: dict[str, Any] = field(default_factory=dict)
    offline: float = 0.0
    major_faults: int = 0

    @property
    def again(self) -> Run | None:
        return self.runs[1] if len(self.runs) > 1 else None


def time_both(
    candidate: Subject,
    baseline: Subject,
    feeds: Feeds,
    method: Method,
    margins: Margins,
    *,
    seed: int,
    bounded: bool = False,
) -> Timed:
    """Run once, and once more in fresh processes when something fails. `bounded` asks for as many processes of the
    candidate as a bound of its memory and load time takes. Raises `WorkerFailed`."""
    found = Timed()
    for number in range(2):
        with SideBySide(candidate, baseline, feeds.single, feeds.offline, method, seed + number) as side_by_side:
            faults = side_by_side.major_faults("candidate")
            doubted = found.runs[0].failed if found.runs else frozenset()
            found.runs.append(
                watch(side_by_side.pairs(), clock_margins(margins), seconds=margins.seconds, doubted=doubted)
            )
            if side_by_side.watch:
                found.watches.append(side_by_side.watch)
            faults = side_by_side.major_faults("candidate") - faults
            offline = {role: side_by_side.batch(role) for role in ROLES}
            for role in ROLES:
                side = "candidate" if role in ("candidate", "twin") else "baseline"
                fresh: Fresh = getattr(found.processes, side)
                fresh.load_times.append(side_by_side.facts[role]["load_time"])
                fresh.peaks.append(side_by_side.peak_memory(role))
            if number == 0:
                found.facts, found.offline = side_by_side.facts["candidate"], offline["candidate"]
                found.major_faults = faults
        if not found.runs[0].failed:
            break
    probe(
        found.processes,
        candidate,
        baseline,
        margin=margins.peak_memory,
        bounded=bounded,
        given=Given(feeds.single, feeds.offline, method),
    )
    return found


def clock_margins(margins: Margins) -> dict[str, float]:
    """The margins that a clock judges, by metric."""
    given = {name: getattr(margins, name.replace("-", "_")) for name in _CLOCKS}
    return {name: float(margin) for name, margin in given.items() if margin is not None}


def checks_of(found: Timed, margins: Margins) -> Iterator[Check]:
    """One check for each margin that a clock or the memory judges."""
    first, again = found.runs[0], found.again
    for position, clock in enumerate(first.clocks):
        shown = again.clocks[position] if again and clock.verdict == "inconclusive" else clock
        percent = _READ_AT.get(clock.metric)
        yield Check(
            clock.metric,
            "regression",
            settled(first, again, clock.metric),
            "seconds",
            _read(first, "baseline", percent),
            _read(first, "candidate", percent),
            shown.change,
            clock.margin,
            shown.change.method if shown.change else "",
            "; ".join(filter(None, (_note(first, again, clock.metric), _held_back(found.watches)))),
        )
    if margins.peak_memory is not None:
        yield found.processes.check(margins.peak_memory)


def timing_of(found: Timed, feeds: Feeds, method: Method, device: str) -> Timing:
    last = found.runs[-1]
    clock = last.clocks[0] if last.clocks else None
    return Timing(
        device=found.facts["device"] or device,
        scenario=method.scenario,
        threads=method.threads,
        batch=feeds.batch,
        offline_batch=feeds.offline_batch,
        pairs=sum(run.pairs for run in found.runs),
        runs=len(found.runs),
        seconds=sum(run.seconds for run in found.runs),
        control=clock.control_change if clock else None,
        holds=clock.holds if clock else None,
    )


def _pairs(run: Run) -> list[tuple[float, ...]]:
    """The candidate's queries, for each pair of rounds."""
    times = run.queries["candidate"]
    each = len(times) // run.pairs
    return [times[start : start + each] for start in range(0, each * run.pairs, each)]


def measurement_of(
    found: Timed, feeds: Feeds, method: Method, *, runtime: str, device: str, gpu: Gpu | None
) -> Measurement:
    """The candidate's numbers as budgets are judged on."""
    run = found.runs[0]
    times = sorted(_both(run.queries, "candidate"))
    change = run.clocks[0].change if run.clocks else None
    speedup = Interval(1.0, 1.0, 1.0, "not judged")
    if change:
        speedup = Interval(1 / (1 + change.value), 1 / (1 + change.high), _inverse(1 + change.low), change.method)
    starts = found.processes.candidate.starts
    return Measurement(
        device=found.facts["device"] or device,
        grade="measured",
        runtime=runtime,
        scenario=method.scenario,
        threads=method.threads,
        batch=feeds.batch,
        latency=Latency(
            percentile(times, 50),
            percentile(times, 90),
            percentile(times, 99),
            times[0],
            times[-1],
            len(times),
            tuple(times),
            max(percentile(times, 50), median_high([statistics.median(pair) for pair in _pairs(run)])),
            tail_high(_pairs(run), 90),
            tail_high(_pairs(run), 99),
        ),
        speedup=speedup,
        rounds=2 * run.pairs,
        throughput=feeds.offline_batch / found.offline,
        offline_batch=feeds.offline_batch,
        load_time=starts.load_time.value,
        first_inference=found.facts["first_inference"],
        peak_memory=int(starts.peak_memory.value),
        memory_after_import=found.facts["memory_after_import"],
        memory_after_load=found.facts["memory_after_load"],
        major_faults=found.major_faults,
        starts=starts,
        gpu=gpu,
    )


def _inverse(value: float) -> float:
    return 1 / value if value > 0 else float("inf")


def _read(run: Run, role: Role, percent: float | None) -> float:
    """A percentile of the queries of a model's two copies; the median of their time on a core for none."""
    if percent is None:
        return statistics.median(_both(run.on_core, role))
    return percentile(sorted(_both(run.queries, role)), percent)


def _both(by_role: Mapping[Role, tuple[float, ...]], role: Role) -> tuple[float, ...]:
    return by_role[role] + by_role["twin" if role == "candidate" else "control"]


def _note(first: Run, again: Run | None, metric: str) -> str:
    one = next(clock for clock in first.clocks if clock.metric == metric)
    if again is None or "fail" not in (first.verdict(metric), again.verdict(metric)):
        last = one if again is None else next(clock for clock in again.clocks if clock.metric == metric)
        return "" if settled(first, again, metric) == "pass" else _holds(last.holds)
    if first.verdict(metric) == again.verdict(metric):
        return "a second run in fresh processes says the same"
    return "a second run in fresh processes does not say the same"


def _held_back(watches: Sequence[Watch]) -> str:
    """What kept the clocks of the card down, for both models alike: they take turns on it."""
    counted = sum((watch.held_back for watch in watches), Counter[str]())
    reasons = ", ".join(f"{reason} in {count}" for reason, count in sorted(counted.items()))
    pairs = sum(watch.rounds for watch in watches)
    if unread := next((why for watch in watches for what, why in watch.unread.items() if "clocks" in what), ""):
        return f"what holds the GPU's clocks back is not known: {unread}"
    return f"the GPU's clocks were held back ({reasons} of {pairs} pairs of rounds)" if reasons else ""


def _holds(margin: float | None) -> str:
    if margin is None:
        return "too few rounds in that time to tell anything"
    return f"in that time this machine could hold a margin of {margin:.1%}"
