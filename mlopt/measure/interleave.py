"""Candidates timed side by side with the baseline, round by round: what the machine does to one it does to all."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import Artifact
from mlopt.errors import Misused, WorkerFailed
from mlopt.intervals import median_high, of_median
from mlopt.measure.alone import Fresh, Given, load, rows_of
from mlopt.measure.gpu import Watch, memory_peak, without_copies
from mlopt.measure.limits import UNLIMITED, Limits
from mlopt.measure.percentiles import percentile, tail_high
from mlopt.measure.process import Worker
from mlopt.measurement import Gpu, Interval, Latency, Measurement

if TYPE_CHECKING:
    from mlopt.profile import Method

_SCENARIOS: Final = ("single-stream", "multi-stream", "offline")
_RESAMPLES: Final = 2000
_LEAST_ROUNDS: Final = 8  # with fewer an interval from order statistics is that of the two extremes
_FEWEST, _MOST = 3, 50  # queries per visit
_SETTLING_SHARE = 0.3  # of a visit's time, at most; but always one query
_OFFLINE_VISITS, _OFFLINE_SHARE = 4, 0.3  # at most so many batches, in at most that part of the time


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model in a runtime, under the name it has in the report."""

    name: str
    artifact: Artifact
    runtime: str


@dataclass(frozen=True, slots=True)
class Enough:
    """Rounds may end once every speed-up is known `within` this share of itself. A visit takes at most `visit` seconds
    (three queries at least): many short ones cancel more than a few long."""

    within: float
    visit: float = 0.2


@dataclass(slots=True)
class _Run:
    subject: Subject
    given: Given
    worker: Worker
    facts: dict[str, Any]
    folders: tuple[str, str]
    queries: int = 1
    settling: int = 1
    major_faults: int = 0
    rounds: list[list[float]] = field(default_factory=list)
    offline: list[float] = field(default_factory=list)
    watch: Watch | None = None
    gpu: Gpu | None = None


def measure_together(
    baseline: Subject,
    candidates: Sequence[Subject],
    *,
    single: Sequence[Mapping[str, Any]],
    offline: Mapping[str, Any],
    method: Method,
    device: str,
    limits: Limits = UNLIMITED,
    others: Mapping[str, Given] = MappingProxyType({}),
    enough: Enough | None = None,
) -> tuple[dict[str, Measurement], dict[str, WorkerFailed]]:
    """Measurements by name (the baseline's among them), and failures by name for those that died.

    All are loaded first, each in a fresh process. Every round visits all of them, in turned order every other round
    (ABBA), so that drift cancels; its first queries do not count, for the caches are another's then. `speedup`
    is the median over rounds of the ratio of that round's medians, per sample, with a bootstrap interval. Only one
    process computes at a time.
    In the scenario `offline` a query is the offline batch. What runs on a GPU is asked for batches after the
    rounds, one after the other, for ONNX Runtime's CUDA provider chooses algorithms anew whenever shapes change (of
    a MobileNetV2 on an H100 in 1.1 s, for a batch of 8): between single queries both would pay for that. Each
    process has `limits` to itself. `others` says by name who is asked with queries of another batch, or with other
    threads; the rest of its method is as for all. Rounds end early where speed-ups are known well `enough`: to stop
    at a width leaves an interval about as sure as it was (Chow and Robbins 1965), where to stop at a verdict would
    not. Raises `WorkerFailed` when the baseline itself dies, `Misused` for the scenario `server`.
    """
    check_scenario(method)
    given = Given(single, offline, method, limits)
    failures: dict[str, WorkerFailed] = {}
    with ExitStack() as stack:
        folders: dict[int, tuple[str, str]] = {}
        runs: list[_Run] = []
        for subject in (baseline, *candidates):
            asked = others.get(subject.name, given)
            if id(asked) not in folders:
                folders[id(asked)] = stack.enter_context(asked.written())
            try:
                runs.append(_load(subject, folders[id(asked)], asked, stack))
            except WorkerFailed as error:
                if subject is baseline:
                    raise
                failures[subject.name] = error
        offline_visits = _plan_visits(runs, method, longest=enough.visit if enough else math.inf)
        for number in range(method.rounds):
            for run in list(runs if number % 2 == 0 else reversed(runs)):
                try:
                    run.worker.ask("query", count=run.settling)
                    faults = run.worker.major_faults
                    with run.watch.round() if run.watch else nullcontext():
                        run.rounds.append(run.worker.ask("query", count=run.queries)["seconds"])
                    run.major_faults += run.worker.major_faults - faults
                    if number < offline_visits and run.watch is None:
                        run.offline.append(run.worker.ask("batch", count=1)["seconds"])
                except WorkerFailed as error:
                    if run is runs[0]:
                        raise
                    failures[run.subject.name] = error
                    runs.remove(run)
            if enough and _known(runs, number + 1, enough.within):
                break
        for run in list(runs):
            try:
                run.gpu = _on_gpu(run)
            except WorkerFailed as error:
                if run is runs[0]:
                    raise
                failures[run.subject.name] = error
                runs.remove(run)
        return {run.subject.name: _measurement(run, runs[0], device) for run in runs}, failures


def check_scenario(method: Method) -> None:
    """Raises `Misused` for a scenario in which models are not measured side by side."""
    if method.scenario not in _SCENARIOS:
        raise Misused(
            f"The scenario {method.scenario!r} is not measured side by side; {', '.join(_SCENARIOS)} are.",
            next="choose another profile, set scenario in its [method], or: mlopt bench MODEL --scenario server",
        )


def _load(subject: Subject, folders: tuple[str, str], given: Given, stack: ExitStack) -> _Run:
    worker = Worker.start(subject.name, given.limits)
    stack.callback(worker.stop)
    facts = load(worker, subject, *folders, threads=given.method.threads)
    return _Run(subject, given, worker, facts, folders, watch=Watch.of(facts["gpu"]) if facts["gpu"] else None)


def _on_gpu(run: _Run) -> Gpu | None:
    """What the GPU did, and its memory in one more process, and then its batches; None for what ran on none."""
    if run.watch is None:
        return None
    method, limits = run.given.method, run.given.limits
    found = run.watch.found(
        without_copies=without_copies(run.watch, run.worker, statistics.median(run.rounds[-1])),
        memory=memory_peak(run.watch, run.subject, run.folders, threads=method.threads, limits=limits),
    )
    run.worker.ask("batch", count=1)  # which chooses
    run.offline = [run.worker.ask("batch", count=1)["seconds"] for _ in range(_OFFLINE_VISITS)]
    return found


def _plan_visits(runs: list[_Run], method: Method, *, longest: float) -> int:
    """Warm up, then share the profile's time so that each round gives each its equal part, `longest` seconds at most.

    Returns in how many rounds the offline batch is run too.
    """
    times = [statistics.median(run.worker.ask("query", count=max(1, method.warm_up))["seconds"]) for run in runs]
    batches = sum(run.worker.ask("batch", count=1)["seconds"] for run in runs if run.watch is None)
    visits = min(_OFFLINE_VISITS, max(1, int(method.seconds * _OFFLINE_SHARE / max(batches, 1e-6))), method.rounds)
    share = max(0.0, method.seconds - visits * batches) / method.rounds / len(runs)
    for run, seconds in zip(runs, times, strict=True):
        fit = int(min(share, longest) / max(seconds, 1e-6))
        run.settling = max(1, min(method.warm_up, int(fit * _SETTLING_SHARE)))
        run.queries = min(_MOST, max(_FEWEST, fit - run.settling))
    return visits


def _known(runs: Sequence[_Run], rounds: int, within: float) -> bool:
    """Whether each speed-up is known well enough; only after as many rounds in one order as in the other."""
    if rounds < _LEAST_ROUNDS or rounds % 2:
        return False
    of_baseline, *others = ([statistics.median(seconds) for seconds in run.rounds] for run in runs)
    ratios = (of_median([a / b for a, b in zip(of_baseline, medians, strict=True)]) for medians in others)
    return all(one.high - one.low <= 2 * within * one.value for one in ratios)


def _measurement(run: _Run, baseline: _Run, device: str) -> Measurement:
    method, batch, of_baseline_batch = run.given.method, run.given.batch, baseline.given.batch
    offline_batch = rows_of(run.given.offline, method.offline_batch)
    times = sorted(second for seconds in run.rounds for second in seconds)
    medians, of_baseline = ([statistics.median(seconds) for seconds in one.rounds] for one in (run, baseline))
    speedup = ratio([one / of_baseline_batch for one in of_baseline], [one / batch for one in medians])
    # The clocks of a few rounds may all have been lucky; beside the baseline, which had the same rounds, less so.
    beside = statistics.median(of_baseline) / of_baseline_batch * batch / speedup.low
    alone = Fresh([run.facts["load_time"]], [run.worker.ask("peak")["peak_memory"]]).starts
    return Measurement(
        device=run.facts["device"] or device,
        grade=run.worker.cell.limits.grade,
        runtime=run.subject.runtime,
        scenario=method.scenario,
        threads=method.threads,
        batch=batch,
        latency=Latency(
            p50=percentile(times, 50),
            p90=percentile(times, 90),
            p99=percentile(times, 99),
            minimum=times[0],
            maximum=times[-1],
            queries=len(times),
            samples=tuple(times),
            p50_high=max(percentile(times, 50), median_high(medians), beside),
            p90_high=tail_high(run.rounds, 90),
            p99_high=tail_high(run.rounds, 99),
        ),
        speedup=speedup,
        rounds=len(run.rounds),
        throughput=offline_batch / statistics.median(run.offline),
        offline_batch=offline_batch,
        load_time=alone.load_time.value,
        first_inference=run.facts["first_inference"],
        peak_memory=int(alone.peak_memory.value),
        memory_after_import=run.facts["memory_after_import"],
        memory_after_load=run.facts["memory_after_load"],
        major_faults=run.major_faults,
        starts=alone,
        gpu=run.gpu,
    )


def ratio(baseline: Sequence[float], candidate: Sequence[float]) -> Interval:
    """Median over rounds of baseline / candidate, with a percentile-bootstrap 95 % interval (seeded).

    >>> ratio([2.0, 2.0], [1.0, 1.0]).value
    2.0
    """
    ratios = [one / other for one, other in zip(baseline, candidate, strict=True)]
    draw = random.Random(0)  # noqa: S311 - statistics, not secrets
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLES))
    return Interval(
        statistics.median(ratios),
        medians[int(0.025 * _RESAMPLES)],
        medians[int(0.975 * _RESAMPLES) - 1],
        f"median of {len(ratios)} per-round ratios, bootstrap 95 %",
    )
