"""Candidates timed side by side with the baseline, round by round: what the machine does to one it does to all."""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.artifact import Artifact
from mlopt.errors import Misused, WorkerFailed
from mlopt.intervals import median_high
from mlopt.measure.alone import Fresh, load
from mlopt.measure.gpu import Watch, memory_peak, without_copies
from mlopt.measure.limits import UNLIMITED, Limits
from mlopt.measure.percentiles import percentile, tail_high
from mlopt.measure.process import Worker, write_feeds
from mlopt.measurement import Gpu, Interval, Latency, Measurement

if TYPE_CHECKING:
    from mlopt.profile import Method

_SCENARIOS: Final = ("single-stream", "multi-stream", "offline")
_RESAMPLES: Final = 2000
_FEWEST, _MOST = 3, 50  # queries per visit
_SETTLING_SHARE = 0.3  # of a visit's time, at most; but always one query
_OFFLINE_VISITS, _OFFLINE_SHARE = 4, 0.3  # at most so many batches, in at most that part of the time


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a model in a runtime, under the name it has in the report."""

    name: str
    artifact: Artifact
    runtime: str


@dataclass(slots=True)
class _Run:
    subject: Subject
    worker: Worker
    facts: dict[str, Any]
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
) -> tuple[dict[str, Measurement], dict[str, WorkerFailed]]:
    """Measurements by name (the baseline's among them), and failures by name for those that died.

    All are loaded first, each in a fresh process. Every round visits all of them, in turned order every other round
    (ABBA), so that drift cancels; its first queries do not count, for the caches are another's then. `speedup`
    is the median over rounds of the ratio of that round's medians, with a bootstrap interval. Only one process computes
    at a time.
    In the scenario `offline` a query is the offline batch. Each process has `limits` to itself. Raises `WorkerFailed`
    when the baseline itself dies, `Misused` for the scenario `server`.
    """
    check_scenario(method)
    if method.scenario == "offline":
        single = [offline]
    failures: dict[str, WorkerFailed] = {}
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mlopt-measure-")))
        folders = (
            write_feeds(scratch / "single", [dict(feed) for feed in single]),
            write_feeds(scratch / "offline", [dict(offline)]),
        )
        runs: list[_Run] = []
        for subject in (baseline, *candidates):
            try:
                runs.append(_load(subject, folders, method, stack, limits))
            except WorkerFailed as error:
                if subject is baseline:
                    raise
                failures[subject.name] = error
        offline_visits = _plan_visits(runs, method)
        for number in range(method.rounds):
            for run in list(runs if number % 2 == 0 else reversed(runs)):
                try:
                    run.worker.ask("query", count=run.settling)
                    faults = run.worker.major_faults
                    with run.watch.round() if run.watch else nullcontext():
                        run.rounds.append(run.worker.ask("query", count=run.queries)["seconds"])
                    run.major_faults += run.worker.major_faults - faults
                    if number < offline_visits:
                        run.offline.append(run.worker.ask("batch", count=1)["seconds"])
                except WorkerFailed as error:
                    if run is runs[0]:
                        raise
                    failures[run.subject.name] = error
                    runs.remove(run)
        for run in list(runs):
            try:
                run.gpu = _on_gpu(run, folders, method, limits)
            except WorkerFailed as error:
                if run is runs[0]:
                    raise
                failures[run.subject.name] = error
                runs.remove(run)
        batches = rows_of(single[0], method.batch), rows_of(offline, method.offline_batch)
        return {run.subject.name: _measurement(run, runs[0], method, device, batches) for run in runs}, failures


def rows_of(feeds: Mapping[str, Any], otherwise: int) -> int:
    """The samples of one query: a model that fixes its batch takes not what the method says."""
    return len(feeds[next(iter(feeds))]) if feeds else otherwise


def check_scenario(method: Method) -> None:
    """Raises `Misused` for a scenario in which models are not measured side by side."""
    if method.scenario not in _SCENARIOS:
        raise Misused(
            f"The scenario {method.scenario!r} is not measured side by side; {', '.join(_SCENARIOS)} are.",
            next="choose another profile, set scenario in its [method], or: mlopt bench MODEL --scenario server",
        )


def _load(subject: Subject, folders: tuple[Path, Path], method: Method, stack: ExitStack, limits: Limits) -> _Run:
    worker = Worker.start(subject.name, limits)
    stack.callback(worker.stop)
    facts = load(worker, subject, str(folders[0]), str(folders[1]), threads=method.threads)
    return _Run(subject, worker, facts, watch=Watch.of(facts["gpu"]) if facts["gpu"] else None)


def _on_gpu(run: _Run, folders: tuple[Path, Path], method: Method, limits: Limits) -> Gpu | None:
    """What the GPU did, and its memory in one more process; None for what ran on none."""
    if run.watch is None:
        return None
    there = str(folders[0]), str(folders[1])
    return run.watch.found(
        without_copies=without_copies(run.worker, statistics.median(run.rounds[-1])),
        memory=memory_peak(run.watch, run.subject, there, threads=method.threads, limits=limits),
    )


def _plan_visits(runs: list[_Run], method: Method) -> int:
    """Warm up, then share the profile's time so that each round gives each its equal part.

    Returns in how many rounds the offline batch is run too.
    """
    times = [statistics.median(run.worker.ask("query", count=max(1, method.warm_up))["seconds"]) for run in runs]
    batches = sum(run.worker.ask("batch", count=1)["seconds"] for run in runs)
    visits = min(_OFFLINE_VISITS, max(1, int(method.seconds * _OFFLINE_SHARE / batches)), method.rounds)
    share = max(0.0, method.seconds - visits * batches) / method.rounds / len(runs)
    for run, seconds in zip(runs, times, strict=True):
        fit = int(share / max(seconds, 1e-6))
        run.settling = max(1, min(method.warm_up, int(fit * _SETTLING_SHARE)))
        run.queries = min(_MOST, max(_FEWEST, fit - run.settling))
    return visits


def _measurement(run: _Run, baseline: _Run, method: Method, device: str, batches: tuple[int, int]) -> Measurement:
    batch, offline_batch = batches
    times = sorted(second for seconds in run.rounds for second in seconds)
    medians, of_baseline = ([statistics.median(seconds) for seconds in one.rounds] for one in (run, baseline))
    speedup = ratio(of_baseline, medians)
    # The clocks of a few rounds may all have been lucky; beside the baseline, which had the same rounds, less so.
    beside = statistics.median(of_baseline) / speedup.low
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
