"""Measuring models that are there already: ONNX files and bundles, on generated inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import MissingDependency, Misused
from mlopt.insight import Anatomy
from mlopt.measure.alone import Given, Shared, arena_peak, cold_start, loaded, shared, started_again
from mlopt.measure.energy import Energy, counters, spent
from mlopt.measure.inside import look_inside
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measure.limits import UNLIMITED, Applied, Limits, forget
from mlopt.measure.loadgen import DISTRIBUTION as LOADGEN
from mlopt.measure.loadgen import LoadGenResult, ask_loadgen
from mlopt.measure.percentiles import Percentile, percentiles_of
from mlopt.measure.server import ServerRate, highest_rate
from mlopt.measure.subjects import (
    check_runtimes,
    model_file,
    own_runtime,
    runtimes_on_gpu,
    shared_signature,
    versions_of,
)
from mlopt.measure.ways import labels, ways_of
from mlopt.measurement import Interval, Measurement
from mlopt.step import installed
from mlopt.units import Seconds

if TYPE_CHECKING:
    from mlopt.profile import Method

SCHEMA: Final = 1
KIND: Final = "mlopt-bench"


@dataclass(frozen=True, slots=True)
class Benched:
    """One model in one runtime; `model` as the person named it. `versions` are those of the runtime's packages.

    `cold_start` is from starting a process to its first answer, in seconds; `arena_peak` what the runtime counted of
    its own memory at its peak, in bytes, None where it does not tell; `server` is there in that scenario, and
    `measurement` then of single queries. `loadgen` is what MLPerf's own load generator says, where it was asked for: of
    a server at the highest rate that held. `energy` is None where nothing counts it, `shared` (the memory of several
    processes) and `inside` where nobody asked.
    """

    model: str
    digest: str
    file_size: int
    versions: Mapping[str, str]
    measurement: Measurement
    percentiles: tuple[Percentile, ...]
    cold_start: float
    arena_peak: int | None
    server: ServerRate | None
    loadgen: LoadGenResult | None
    energy: Energy | None
    shared: Shared | None = None
    inside: Anatomy | None = None


@dataclass(frozen=True, slots=True)
class Noise:
    """A second copy of the first model beside it, as if it were another: `speedup` is 1 but for chance, and `tells` the
    smallest difference in speed, as a share, that these rounds can tell from none."""

    speedup: Interval
    tells: float


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What `mlopt bench` found; the first model is the baseline of all. `machine` holds what explains its clocks,
    `limits` what each process was allowed less of than there is, `no_energy` why nobody knows the energy of a query,
    `left_out` what this machine's GPU was not asked for by name and could not measure, and why."""

    schema: int
    kind: Literal["mlopt-bench"]
    mlopt: str
    models: tuple[Benched, ...]
    noise: Noise
    machine: Mapping[str, str]
    limits: tuple[Applied, ...]
    no_energy: str
    left_out: Mapping[str, str]

    @property
    def labelled(self) -> dict[str, Measurement]:
        """Measurements by the model's name, with runtime, batch and threads where a model was measured with several."""
        taken = [one.measurement for one in self.models]
        asked = [
            (one.model, each.runtime, each.batch, each.threads) for one, each in zip(self.models, taken, strict=True)
        ]
        return dict(zip(labels(asked), taken, strict=True))


def bench(
    models: Sequence[Path],
    *,
    method: Method,
    device: str,
    runtimes: Sequence[str] = (),
    gpu: bool = False,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (),
    bound: float | None = None,
    layers: bool = False,
    limits: tuple[Limits, tuple[Applied, ...]] = (UNLIMITED, ()),
    loadgen: bool = False,
    workers: int = 1,
) -> BenchResult:
    """All of them side by side; in the scenario `server` each alone after that, with `bound` on its latency; with
    `layers` the inside of each as well.

    Every model runs in each of `runtimes`; without any, in the one that it was compiled for and, where this machine has
    a `gpu` and nobody asked for limits, by ONNX Runtime on that: what cannot is left out, with why. It does so with
    each of `threads` and in queries of each of `batches`, without any as `method` says; speed-ups are per sample.
    Raises `ModelNotFound`, `ModelUnreadable`, `UnsupportedModel` for what is no ONNX and when the models do not take
    the same inputs, `UnknownName`, `MissingDependency`, `WorkerFailed`, `OutOfMemory`, and `Misused` for a server
    without a bound and for what would be measured twice.
    """
    from mlopt.surroundings import describe

    check_runtimes(runtimes)
    if loadgen and not installed(LOADGEN):
        raise MissingDependency(f"--loadgen needs {LOADGEN}.", next="pip install 'mlopt[loadgen]'")
    serving = method.scenario == "server"
    if serving and bound is None:
        raise Misused(
            "The server scenario needs a bound on latency.",
            next="--latency-bound 15ms, or latency-p99 in [budgets] of the profile",
        )
    files = {str(path): model_file(path) for path in models}
    if len(files) < len(models):
        raise Misused("A model is named twice; side by side with itself it says nothing.", next="name each once")
    ways = ways_of(shared_signature(files), next(iter(files.values())), method, limits[0], threads, batches)
    added, left_out = runtimes_on_gpu() if gpu and not runtimes and limits[0] == UNLIMITED else ((), {})
    each = {name: dict.fromkeys(runtimes or (own_runtime(Path(name)), *added)) for name in files}
    asked = [(name, runtime, way) for name, taken in each.items() for runtime in taken for way in ways]
    names = labels([(name, runtime, way.batch, way.method.threads) for name, runtime, way in asked])
    subjects = [
        Subject(label, _artifact(files[name]), runtime) for label, (name, runtime, _) in zip(names, asked, strict=True)
    ]
    copy = replace(subjects[0], name=f"{subjects[0].name} again")
    bounds, told = limits
    if bounds.memory:  # what is in the page cache already would be nobody's
        for subject in subjects:
            forget(_files(subject.artifact.main))
    side_by_side = replace(method, scenario="single-stream", seconds=Seconds(method.seconds / 2)) if serving else method
    measured, failures = measure_together(
        subjects[0],
        [*subjects[1:], copy],
        single=ways[0].single,
        offline=ways[0].offline,
        method=side_by_side,
        device=device,
        limits=bounds,
        others={
            one: replace(way, method=replace(way.method, scenario=side_by_side.scenario))
            for one, (_, _, way) in zip((*names, copy.name), (*asked, asked[0]), strict=True)
        },
    )
    for subject, (name, runtime, _) in zip(subjects, asked, strict=True):
        if subject.name in failures and runtime in added and runtime != own_runtime(Path(name)):
            what = failures.pop(subject.name).what.splitlines()[0]
            left_out[subject.name] = what.removeprefix(f"{subject.name} cannot be measured: ")
    if failures:
        raise next(iter(failures.values()))
    seconds = method.seconds / 2 / len(asked)
    found, missing = [], ""
    for subject, (name, _, way) in zip(subjects, asked, strict=True):
        if subject.name in left_out:
            continue
        asks = _Asks(way, bound, loadgen, workers, layers, device, seconds)
        one, why = _benched(name, subject, measured[subject.name], asks)
        found.append(one)
        missing = missing or why
    itself = measured[copy.name].speedup
    noise = Noise(itself, max(itself.high, 1 / itself.low) - 1)
    return BenchResult(SCHEMA, KIND, version("mlopt"), tuple(found), noise, describe(), told, missing, left_out)


@dataclass(frozen=True, slots=True)
class _Asks:
    """What is asked of each model alone, after the rounds; `seconds` bound each part of it."""

    given: Given
    bound: float | None
    loadgen: bool
    workers: int
    layers: bool
    device: str
    seconds: float


def _benched(name: str, subject: Subject, taken: Measurement, asks: _Asks) -> tuple[Benched, str]:
    """One model, and why its energy is not known."""
    given, method, limits = asks.given, asks.given.method, asks.given.limits
    weights, server, by_loadgen, energy = _files(subject.artifact.main), None, None, None
    counts, why = counters(gpu=taken.gpu.card if taken.gpu else "")
    if limits.grade != "measured":
        counts, why = (), "an emulator's energy is nobody's"
    if method.scenario == "server" or asks.loadgen or counts:
        with loaded(subject, given.single, threads=method.threads, limits=limits) as worker:
            if method.scenario == "server" and asks.bound is not None:
                server = highest_rate(worker, asks.bound, seconds=asks.seconds)
            if asks.loadgen:
                by_loadgen = ask_loadgen(worker, method.scenario, taken, asks.seconds, server)
            if counts:
                energy = spent(worker, counts)
    found = Benched(
        name,
        *_identity(weights),
        versions_of(subject.runtime),
        started_again(taken, subject, given),
        percentiles_of(taken.latency.samples),
        cold_start(subject, given.single, threads=method.threads, files=weights, limits=limits),
        arena_peak(subject, given),
        server,
        by_loadgen,
        energy,
        shared(subject, given.single, workers=asks.workers, threads=method.threads, limits=limits)
        if asks.workers > 1
        else None,
        _inside(subject, asks) if asks.layers else None,
    )
    return found, why


def _inside(subject: Subject, asks: _Asks) -> Anatomy:
    given, method = asks.given, asks.given.method
    batch, limits = method.query_batch, given.limits
    return look_inside(subject, given.single, threads=method.threads, batch=batch, device=asks.device, limits=limits)


def _files(model: Path) -> list[Path]:
    """The model and the files of weights that it names."""
    from mlopt.onnx_file import external_tensors, load_graph

    weights = sorted({model.parent / one.location for one in external_tensors(load_graph(model))})
    return [one for one in (model, *weights) if one.is_file()]


def _identity(files: Sequence[Path]) -> tuple[str, int]:
    """Digest and bytes of a model in all its files."""
    digests = [digest_of(one) for one in files]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return whole, sum(one.stat().st_size for one in files)


def _artifact(file: Path) -> Artifact:
    return Artifact(ONNX, digest_of(file), file)
