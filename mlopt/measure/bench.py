"""Measuring models that are there already: ONNX files and bundles, on generated inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mlopt import registry
from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import MissingDependency, Misused, ModelNotFound, UnsupportedModel
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
from mlopt.measurement import Interval, Measurement
from mlopt.sniff import sniff
from mlopt.step import installed
from mlopt.units import Seconds

if TYPE_CHECKING:
    from mlopt.profile import Method
    from mlopt.signature import Signature

SCHEMA: Final = 1
KIND: Final = "mlopt-bench"
_FEEDS = 4


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
    `limits` what each process was allowed less of than there is, `no_energy` why nobody knows the energy of a query."""

    schema: int
    kind: Literal["mlopt-bench"]
    mlopt: str
    models: tuple[Benched, ...]
    noise: Noise
    machine: Mapping[str, str]
    limits: tuple[Applied, ...]
    no_energy: str

    @property
    def labelled(self) -> dict[str, Measurement]:
        """Measurements by the model's name, and the runtime's where a model ran in several."""
        names = [one.model for one in self.models]
        several = len(set(names)) < len(names)
        return {
            f"{one.model} ({one.measurement.runtime})" if several else one.model: one.measurement for one in self.models
        }


def bench(
    models: Sequence[Path],
    *,
    method: Method,
    device: str,
    runtimes: Sequence[str] = (),
    bound: float | None = None,
    layers: bool = False,
    limits: tuple[Limits, tuple[Applied, ...]] = (UNLIMITED, ()),
    loadgen: bool = False,
    workers: int = 1,
) -> BenchResult:
    """All of them side by side; in the scenario `server` each alone after that, with `bound` on its latency; with
    `layers` the inside of each as well.

    Every model runs in each of `runtimes`; without any, in the one that it was compiled for. Raises `ModelNotFound`,
    `ModelUnreadable`, `UnsupportedModel` for what is no ONNX and when the models do not take the same inputs,
    `UnknownName`, `MissingDependency`, `WorkerFailed`, `OutOfMemory`, and `Misused` for a server without a bound.
    """
    from mlopt.convert.batch import free_size_of
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.surroundings import describe

    _check_runtimes(runtimes)
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
    first = _shared_signature(files)
    free = free_size_of(next(iter(files.values())), {})
    single = list(GeneratedSamples(first, _FEEDS * method.query_batch, 0, free=free).feeds(batch=method.query_batch))
    offline = next(GeneratedSamples(first, method.offline_batch, 0, free=free).feeds(batch=method.offline_batch))
    named = [
        (name, Subject(f"{name} ({runtime})" if len(runtimes) > 1 else name, _artifact(file), runtime))
        for name, file in files.items()
        for runtime in runtimes or (own_runtime(Path(name)),)
    ]
    subjects = [subject for _, subject in named]
    copy = replace(subjects[0], name=f"{subjects[0].name} again")
    bounds, told = limits
    if bounds.memory:  # what is in the page cache already would be nobody's
        for subject in subjects:
            forget(_files(subject.artifact.main))
    side_by_side = replace(method, scenario="single-stream", seconds=Seconds(method.seconds / 2)) if serving else method
    measured, failures = measure_together(
        subjects[0],
        [*subjects[1:], copy],
        single=single,
        offline=offline,
        method=side_by_side,
        device=device,
        limits=bounds,
    )
    if failures:
        raise next(iter(failures.values()))
    seconds = method.seconds / 2 / len(named)
    asks = _Asks(Given(single, offline, method, bounds), bound, loadgen, workers, layers, device, seconds)
    found, missing = [], ""
    for name, subject in named:
        one, why = _benched(name, subject, measured[subject.name], asks)
        found.append(one)
        missing = missing or why
    itself = measured[copy.name].speedup
    noise = Noise(itself, max(itself.high, 1 / itself.low) - 1)
    return BenchResult(SCHEMA, KIND, version("mlopt"), tuple(found), noise, describe(), told, missing)


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


def _shared_signature(files: Mapping[str, Path]) -> Signature:
    """What all of them take; raises `UnsupportedModel` where they do not take the same."""
    from mlopt.signature import signature_of

    signatures = {name: signature_of(file) for name, file in files.items()}
    first_name, first = next(iter(signatures.items()))
    for name, other in signatures.items():
        if [(t.name, t.dtype) for t in other.inputs] != [(t.name, t.dtype) for t in first.inputs]:
            raise UnsupportedModel(
                f"{name} and {first_name} take different inputs, so they cannot be compared on the same ones.",
                next="bench them one at a time",
            )
    return first


def versions_of(runtime: str) -> dict[str, str]:
    """The packages that decide what a runtime computes."""
    return {name: version(name) for name in registry.load("mlopt.runners", runtime).distributions}


def model_file(path: Path) -> Path:
    """The ONNX file itself, or the winner of a bundle."""
    if path.is_dir():
        from mlopt.bundle import Bundle

        return Bundle.load(path).model
    if not path.is_file():
        raise ModelNotFound("There is no model at this path.", where=str(path), next="give an ONNX file or a bundle")
    if (found := sniff(path)).format != ONNX:
        raise UnsupportedModel(
            f"bench measures ONNX files and bundles, and this is {found.format}.",
            where=str(path),
            next=f"mlopt export {path}",
        )
    return path


def own_runtime(path: Path) -> str:
    from mlopt.bundle import Bundle

    return Bundle.load(path).runtime if path.is_dir() else "onnxruntime"


def _check_runtimes(runtimes: Sequence[str]) -> None:
    if len(set(runtimes)) < len(runtimes):
        raise Misused("A runtime is named twice.", next="name each once")
    for runtime in runtimes:
        for distribution in registry.load("mlopt.runners", runtime).distributions:
            if not installed(distribution):
                raise MissingDependency(
                    f"The runtime {runtime} needs {distribution}, which is not installed.",
                    next=f"pip install 'mlopt[{runtime}]'",
                )


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
