"""Measuring models that are there already: ONNX files and bundles, on generated inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from mlopt import registry
from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import MissingDependency, Misused, ModelNotFound, UnsupportedModel, WorkerFailed
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measurement import Measurement
from mlopt.sniff import sniff
from mlopt.step import installed

if TYPE_CHECKING:
    from mlopt.profile import Method

SCHEMA: Final = 1
KIND: Final = "mlopt-bench"
_FEEDS = 4


@dataclass(frozen=True, slots=True)
class Benched:
    """One model in one runtime; `model` as the person named it. `versions` are those of the runtime's packages."""

    model: str
    digest: str
    file_size: int
    versions: Mapping[str, str]
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class BenchResult:
    """What `mlopt bench` found; the first model is the baseline of all."""

    schema: int
    kind: Literal["mlopt-bench"]
    mlopt: str
    models: tuple[Benched, ...]

    @property
    def labelled(self) -> dict[str, Measurement]:
        """Measurements by the model's name, and the runtime's where a model ran in several."""
        names = [one.model for one in self.models]
        several = len(set(names)) < len(names)
        return {
            f"{one.model} ({one.measurement.runtime})" if several else one.model: one.measurement for one in self.models
        }


def bench(models: Sequence[Path], *, method: Method, device: str, runtimes: Sequence[str] = ()) -> BenchResult:
    """All of them side by side.

    Every model runs in each of `runtimes`; without any, in the one that it was compiled for. Raises `ModelNotFound`,
    `ModelUnreadable`, `UnsupportedModel` for what is no ONNX and when the models do not take the same inputs,
    `UnknownName`, `MissingDependency`, `WorkerFailed`.
    """
    from mlopt.convert.batch import free_size_of
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.signature import signature_of

    _check_runtimes(runtimes)
    files = {str(path): model_file(path) for path in models}
    if len(files) < len(models):
        raise Misused("A model is named twice; side by side with itself it says nothing.", next="name each once")
    signatures = {name: signature_of(file) for name, file in files.items()}
    first_name, first = next(iter(signatures.items()))
    for name, other in signatures.items():
        if [(t.name, t.dtype) for t in other.inputs] != [(t.name, t.dtype) for t in first.inputs]:
            raise UnsupportedModel(
                f"{name} and {first_name} take different inputs, so they cannot be compared on the same ones.",
                next="bench them one at a time",
            )
    free = free_size_of(files[first_name], {})
    samples = GeneratedSamples(first, _FEEDS * method.batch, 0, free=free)
    offline = GeneratedSamples(first, method.offline_batch, 0, free=free)
    named = [
        (name, Subject(f"{name} ({runtime})" if len(runtimes) > 1 else name, _artifact(file), runtime))
        for name, file in files.items()
        for runtime in runtimes or (own_runtime(Path(name)),)
    ]
    subjects = [subject for _, subject in named]
    measured, failures = measure_together(
        subjects[0],
        subjects[1:],
        single=list(samples.feeds(batch=method.batch)),
        offline=next(offline.feeds(batch=method.offline_batch)),
        method=method,
        device=device,
    )
    if failures:
        raise WorkerFailed("; ".join(failures.values()))
    found = tuple(
        Benched(name, *_identity(one.artifact.main), versions_of(one.runtime), measured[one.name])
        for name, one in named
    )
    return BenchResult(SCHEMA, KIND, version("mlopt"), found)


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


def _identity(file: Path) -> tuple[str, int]:
    """Digest and bytes of a model with the files of weights that it names."""
    from mlopt.onnx_file import external_tensors, load_graph

    weights = sorted({file.parent / one.location for one in external_tensors(load_graph(file))})
    found = [one for one in (file, *weights) if one.is_file()]
    digests = [digest_of(one) for one in found]
    whole = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return whole, sum(one.stat().st_size for one in found)


def _artifact(file: Path) -> Artifact:
    return Artifact(ONNX, digest_of(file), file)
