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
from mlopt.gate.result import KIND, SCHEMA, GateResult, NotCompared, Slower, Stored, Timing, verdict_of
from mlopt.gate.revision import given
from mlopt.gate.slower import slower_layers
from mlopt.gate.subjects import Opened, Reading, check_inputs, fixed_batch, open_baseline, open_candidate
from mlopt.gate.walk import Asked, Walk
from mlopt.measure.alone import Given, arena_peak, rows_of, started_again
from mlopt.measure.gpu import OWN, Watch, memory_peak
from mlopt.measure.interleave import Subject, check_scenario, measure_together
from mlopt.measure.subjects import versions_of
from mlopt.measurement import Accuracy, Gpu, Measurement

if TYPE_CHECKING:
    from mlopt.profile import Margins
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
    measurement, timing, arena = _compare_clocks(walk)
    slower = _slower(walk)
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
        machine=_machine(walk, measurement),
        checks=tuple(walk.checks),
        measured=_measured(measurement, candidate, accuracy, right, arena),
        starts=measurement.starts,
        timing=timing,
        slower=slower,
        not_compared=tuple(walk.left),
        samples=walk.samples.digest,
        answers=right.stored() if right else None,
        seconds=time.monotonic() - began,
    )


def _machine(walk: Walk, measurement: Measurement) -> dict[str, str]:
    """What a later gate asks of a stored result, to know whether its memory says anything there."""
    known = {"cpu": walk.machine.cpu, "cores": str(walk.machine.cores), **versions_of(walk.candidate.side.runtime)}
    return known | ({"gpu": compare.card_of(measurement.gpu)} if measurement.gpu else {})


def _measured(
    measurement: Measurement, candidate: Opened, accuracy: Accuracy | None, right: Right | None, arena: int | None
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
    if arena is not None:
        found["arena-peak"] = float(arena)
    if measurement.gpu and measurement.gpu.memory is not None and measurement.gpu.memory_method == OWN:
        found["gpu-memory"] = float(measurement.gpu.memory)
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


def _compare_clocks(walk: Walk) -> tuple[Measurement, Timing | None, int | None]:
    """Also what the candidate's arena held at most, where somebody asks and the runtime tells."""
    method, margins, seed = walk.asked.profile.method, walk.asked.profile.gate, walk.asked.seed
    feeds = _feeds(walk)
    given = Given(feeds.single, feeds.offline, method)
    candidate = Subject(walk.candidate.side.name, walk.candidate.artifact, walk.candidate.side.runtime)
    mine = _arena(margins, candidate, given)
    if isinstance(walk.baseline, Stored):
        measurement = _alone(walk, feeds)
        walk.left += [NotCompared(metric, _AT_ANOTHER_TIME) for metric in timed.clock_margins(margins)]
        if margins.instructions is not None:
            walk.left.append(NotCompared("instructions", "a stored baseline holds none: give the baseline's model"))
        for found in compare.stored_memory(margins, walk.baseline, measurement, mine, cpu=walk.machine.cpu):
            walk.note(found)
        return measurement, _timing_alone(measurement), mine
    if walk.same:
        measurement = _alone(walk, feeds)
        walk.checks += compare.same(margins, on_gpu=measurement.gpu is not None)
        return measurement, _timing_alone(measurement), mine
    baseline = Subject(walk.baseline.side.name, walk.baseline.artifact, walk.baseline.side.runtime)
    bounded = walk.asked.profile.budgets.of_starts
    with walk.progress.phase("watch", "two copies of candidate and baseline"):
        timings = timed.time_both(candidate, baseline, feeds, method, margins, seed=seed, bounded=bounded)
    walk.checks += timed.checks_of(timings, margins)
    gpu = None
    if margins.gpu_memory is not None and timings.watches and timings.facts["gpu"]:  # the candidate is on the card
        gpu, before = (_on_gpu(timings.watches[-1], one, given) for one in (candidate, baseline))
        pair = ((one.memory, one.memory_method) for one in (gpu, before))
        walk.note(compare.gpu_memory(margins.gpu_memory, *pair))
    if margins.arena_peak is not None:
        walk.note(compare.arena(margins.arena_peak, mine, _arena(margins, baseline, given)))
    if margins.instructions is not None:
        counted = instructions(candidate, baseline, given)
        walk.note(compare.instructions(margins.instructions, counted))
    measurement = timed.measurement_of(timings, feeds, method, runtime=candidate.runtime, device=walk.device, gpu=gpu)
    return measurement, timed.timing_of(timings, feeds, method, walk.device), mine


def _slower(walk: Walk) -> tuple[Slower, ...]:
    """What a failing clock may come from."""
    failed = {check.metric for check in walk.checks if check.verdict == "fail"}
    if isinstance(walk.baseline, Stored) or not failed & timed.clock_margins(walk.asked.profile.gate).keys():
        return ()
    feeds = _feeds(walk)
    candidate, baseline = (
        Subject(one.side.name, one.artifact, one.side.runtime) for one in (walk.candidate, walk.baseline)
    )
    given = Given(feeds.single, feeds.offline, walk.asked.profile.method)
    with walk.progress.phase("look inside", "candidate and baseline"):
        found = slower_layers(candidate, baseline, given, batch=feeds.batch, device=walk.device)
    if isinstance(found, NotCompared):
        walk.left.append(found)
        return ()
    return found


def _on_gpu(watch: Watch, subject: Subject, given: Given) -> Gpu:
    """What `watch` saw while both ran, and the memory of a fresh process of this one."""
    threads, limits = given.method.threads, given.limits
    with given.written() as folders:
        memory = memory_peak(watch, subject, folders, threads=threads, limits=limits)
    return watch.found(without_copies=None, memory=memory)


def _arena(margins: Margins, subject: Subject, given: Given) -> int | None:
    if margins.arena_peak is None:
        return None
    return arena_peak(subject, given)


def _feeds(walk: Walk) -> timed.Feeds:
    method = walk.asked.profile.method
    batch = walk.batch(method.offline_batch)
    single = list(itertools.islice(walk.samples.feeds(batch=walk.batch(method.query_batch)), _FEEDS))
    offline = next(iter(walk.samples.feeds(batch=batch)))
    if method.scenario == "offline":
        single = [offline]
    return timed.Feeds(single, offline, rows_of(single[0], method.batch), rows_of(offline, method.offline_batch))


def _alone(walk: Walk, feeds: timed.Feeds) -> Measurement:
    """Measured without a model beside it, with as many fresh processes as bounds take (a later gate reads them too)."""
    side = walk.candidate.side
    method = walk.asked.profile.method
    subject = Subject(side.name, walk.candidate.artifact, side.runtime)
    with walk.progress.phase("measure", side.name):
        found, _ = measure_together(
            subject, [], single=feeds.single, offline=feeds.offline, method=method, device=walk.device
        )
        return started_again(found[side.name], subject, Given(feeds.single, feeds.offline, method))


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
