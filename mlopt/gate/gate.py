"""The whole gate: open both, compare what needs no clock, then the answers, then the clocks, then the budgets."""

from __future__ import annotations

import itertools
import time
from importlib import metadata
from typing import TYPE_CHECKING, Final

from mlopt.gate import compare, timed
from mlopt.gate.answers import Right
from mlopt.gate.evaluated import compare_both
from mlopt.gate.memory import instructions
from mlopt.gate.result import KIND, SCHEMA, GateResult, NotCompared, Stored, Timing, verdict_of
from mlopt.gate.revision import given
from mlopt.gate.subjects import Opened, Reading, check_inputs, fixed_batch, open_baseline, open_candidate
from mlopt.gate.walk import Asked, Walk
from mlopt.measure.bench import versions_of
from mlopt.measure.interleave import Subject, check_scenario, measure_together, rows_of
from mlopt.measurement import Accuracy, Measurement

if TYPE_CHECKING:
    from mlopt.progress import Progress
    from mlopt.samples.generated import GeneratedSamples

_GENERATED: Final = 128
_FEEDS: Final = 8
_AT_ANOTHER_TIME: Final = (
    "the stored baseline was measured at another time: the same model, measured twice, has differed by 54 %. Give the "
    "baseline's model"
)


def gate(asked: Asked, progress: Progress) -> GateResult:
    """The verdict. Raises what reading models, samples and git raises, `LabelsMismatch`, and `WorkerFailed` for a
    runtime that dies."""
    began = time.monotonic()
    check_scenario(asked.profile.method)
    reading = _reading(asked, progress)
    candidate = open_candidate(asked.request.model, reading)
    with given(asked.baseline, asked.request.model) as found:
        return _gate(asked, progress, reading, candidate, open_baseline(found.path, reading, name=found.name), began)


def _gate(
    asked: Asked, progress: Progress, reading: Reading, candidate: Opened, baseline: Opened | Stored, began: float
) -> GateResult:
    from mlopt.host import detect
    from mlopt.prepare import split_samples

    if isinstance(baseline, Opened):
        check_inputs(candidate, baseline)
    split = split_samples(asked.request, reading.project, candidate.signature)
    samples = split.evaluation if split else _generated(asked, reading, candidate, baseline)
    offset = reading.project.samples.label_offset
    walk = Walk(asked, progress, detect(), candidate, baseline, samples, split, offset)
    margins = asked.profile.gate
    walk.checks += compare.files(margins, candidate.side, baseline.side)
    accuracy, right = compare_both(walk)
    measurement, timing = _compare_clocks(walk)
    for found in compare.budgets(asked.profile.budgets, candidate.side, accuracy, measurement):
        walk.note(found)
    return GateResult(
        schema=SCHEMA,
        kind=KIND,
        mlopt=metadata.version("mlopt"),
        verdict=verdict_of(tuple(walk.checks)),
        candidate=candidate.side,
        baseline=baseline.side,
        profile=asked.profile.name,
        machine={"cpu": walk.machine.cpu, "cores": str(walk.machine.cores), **versions_of(candidate.side.runtime)},
        checks=tuple(walk.checks),
        measured=_measured(measurement, candidate, accuracy, right),
        timing=timing,
        not_compared=tuple(walk.left),
        samples=walk.samples.digest,
        answers=right.stored() if right else None,
        seconds=time.monotonic() - began,
    )


def _measured(
    measurement: Measurement, candidate: Opened, accuracy: Accuracy | None, right: Right | None
) -> dict[str, float]:
    found = {
        "latency-p50": measurement.latency.p50,
        "latency-p90": measurement.latency.p90,
        "latency-p99": measurement.latency.p99,
        "throughput": measurement.throughput,
        "load-time": measurement.load_time,
        "peak-memory": float(measurement.peak_memory),
        "file-size": float(candidate.side.file_size),
    }
    if right is not None:
        found["top1"] = float(right.right.mean())
    if accuracy is not None and accuracy.agreement is not None:
        found["agreement"] = accuracy.agreement.value
    return found


def _reading(asked: Asked, progress: Progress) -> Reading:
    from mlopt.project import find_project
    from mlopt.store import Store, default_root

    request = asked.request
    return Reading(
        store=Store(request.store or default_root(), progress.on_step),
        project=find_project(request.model, request.project),
        factory=request.factory,
        trust=request.trust,
        runtime=asked.runtime,
    )


def _generated(asked: Asked, reading: Reading, candidate: Opened, baseline: Opened | Stored) -> GeneratedSamples:
    from mlopt.convert.batch import free_size_of
    from mlopt.samples.generated import GeneratedSamples

    project = reading.project
    free = free_size_of(candidate.artifact.main, project.inputs)
    each = fixed_batch(candidate) or fixed_batch(baseline) or 1
    count = -(-_GENERATED // each) * each  # whole queries: a model that fixes its batch takes no less
    return GeneratedSamples(candidate.signature, count, asked.seed, project.inputs, free)


def _compare_clocks(walk: Walk) -> tuple[Measurement, Timing | None]:
    method, margins = walk.asked.profile.method, walk.asked.profile.gate
    feeds = _feeds(walk)
    if isinstance(walk.baseline, Stored):
        measurement = _alone(walk, feeds)
        walk.left += [NotCompared(metric, _AT_ANOTHER_TIME) for metric in timed.clock_margins(margins)]
        if margins.instructions is not None:
            walk.left.append(NotCompared("instructions", "a stored baseline holds none: give the baseline's model"))
        memory = compare.stored_memory(margins, walk.baseline, measurement, cpu=walk.machine.cpu)
        walk.note(memory)
        return measurement, _timing_alone(measurement)
    if walk.same:
        walk.checks += compare.same(margins)
        measurement = _alone(walk, feeds)
        return measurement, _timing_alone(measurement)
    candidate, baseline = (
        Subject(side.name, opened.artifact, side.runtime)
        for opened, side in ((walk.candidate, walk.candidate.side), (walk.baseline, walk.baseline.side))
    )
    with walk.progress.phase("watch", "two copies of candidate and baseline"):
        found = timed.time_both(candidate, baseline, feeds, method, margins, seed=walk.asked.seed)
    walk.checks += timed.checks_of(found, margins)
    if margins.instructions is not None:
        counted = instructions(candidate, baseline, feeds=feeds.single, method=method)
        walk.note(compare.instructions(margins.instructions, counted))
    runtime = walk.candidate.side.runtime
    measurement = timed.measurement_of(found, feeds, method, runtime=runtime, device=walk.device)
    return measurement, timed.timing_of(found, feeds, method, walk.device)


def _feeds(walk: Walk) -> timed.Feeds:
    method = walk.asked.profile.method
    batch = walk.batch(method.offline_batch)
    single = list(itertools.islice(walk.samples.feeds(batch=walk.batch(method.query_batch)), _FEEDS))
    offline = next(iter(walk.samples.feeds(batch=batch)))
    if method.scenario == "offline":
        single = [offline]
    return timed.Feeds(single, offline, rows_of(single[0], method.batch), rows_of(offline, method.offline_batch))


def _alone(walk: Walk, feeds: timed.Feeds) -> Measurement:
    side = walk.candidate.side
    method = walk.asked.profile.method
    with walk.progress.phase("measure", side.name):
        found, _ = measure_together(
            Subject(side.name, walk.candidate.artifact, side.runtime),
            [],
            single=feeds.single,
            offline=feeds.offline,
            method=method,
            device=walk.device,
        )
    return found[side.name]


def _timing_alone(measurement: Measurement) -> Timing:
    return Timing(
        device=measurement.device,
        scenario=measurement.scenario,
        threads=measurement.threads,
        batch=measurement.batch,
        offline_batch=measurement.offline_batch,
        pairs=0,
        runs=0,
        seconds=0.0,
        control=None,
        holds=None,
    )
