"""Which files `mlopt bench` measures, and in which runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt import registry
from mlopt.artifact import ONNX
from mlopt.errors import MissingDependency, Misused, ModelNotFound, UnsupportedModel
from mlopt.sniff import sniff
from mlopt.step import installed

if TYPE_CHECKING:
    from mlopt.signature import Signature

ON_GPU: Final = "onnxruntime-cuda"


def runtimes_on_gpu() -> tuple[tuple[str, ...], dict[str, str]]:
    """What every model is measured in too on a machine with an NVIDIA GPU; or why not, by name."""
    missing = _missing(ON_GPU)
    return ((), {ON_GPU: f"{missing.what} {missing.next}"}) if missing else ((ON_GPU,), {})


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


def check_runtimes(runtimes: Sequence[str]) -> None:
    """Raises `Misused`, `UnknownName` and `MissingDependency`."""
    if len(set(runtimes)) < len(runtimes):
        raise Misused("A runtime is named twice.", next="name each once")
    for runtime in runtimes:
        if missing := _missing(runtime):
            raise missing


def versions_of(runtime: str) -> dict[str, str]:
    """The packages that decide what a runtime computes."""
    return {name: version(name) for name in registry.load("mlopt.runners", runtime).distributions}


def shared_signature(files: Mapping[str, Path]) -> Signature:
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


def _missing(runtime: str) -> MissingDependency | None:
    runner = registry.load("mlopt.runners", runtime)
    for distribution in runner.distributions:
        if not installed(distribution):
            return MissingDependency(
                f"The runtime {runtime} needs {distribution}, which is not installed.",
                next=f"pip install 'mlopt[{getattr(runner, 'extra', runtime)}]'",
            )
    return None
