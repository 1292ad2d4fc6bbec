"""Candidate and baseline, whatever they are, as ONNX that can be run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt.artifact import ONNX, Artifact
from mlopt.errors import ModelNotFound, UnsupportedModel
from mlopt.gate.result import Side, Stored, read_stored
from mlopt.signature import Signature, signature_of, walk

if TYPE_CHECKING:
    from mlopt.project import Project
    from mlopt.store import Store

DEFAULT_RUNTIME: Final = "onnxruntime"
_OPSET: Final = 20
_FIRST: Final = 64


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that can be run, and what it is to be called."""

    side: Side
    artifact: Artifact
    signature: Signature


@dataclass(frozen=True, slots=True)
class Reading:
    """How models are read that are no ONNX yet."""

    store: Store
    project: Project
    factory: str | None = None
    trust: bool = False
    runtime: str | None = None


def open_candidate(path: Path, reading: Reading, *, name: str = "") -> Opened:
    """A bundle, an ONNX file, or any model that can be exported; `name` is what to call it, if not its path.

    Raises `ModelNotFound`, `ModelUnreadable`, `NotTrusted`, `NeedsFactory`, `ExportFailed`.
    """
    from mlopt.bundle import Bundle
    from mlopt.source import export_step, open_model

    runtime = reading.runtime or DEFAULT_RUNTIME
    file = path
    if (path / "bundle.json").is_file():
        bundle = Bundle.load(path)
        file, runtime = bundle.model, reading.runtime or bundle.runtime
    root = Path.cwd() if reading.factory else reading.project.root.resolve()
    factory = reading.factory or reading.project.model.factory
    artifact = open_model(file, store=reading.store, factory=factory, root=root, trust=reading.trust)
    if artifact.format != ONNX:
        step = export_step(artifact, opset=_OPSET, factory=factory, root=root, inputs=reading.project.inputs)
        artifact = reading.store.run(step, artifact)
    side = Side(name or str(path), artifact.digest, runtime, artifact.bytes, operators_of(artifact))
    return Opened(side, artifact, signature_of(artifact.main))


def open_baseline(path: Path, reading: Reading, *, name: str = "") -> Opened | Stored:
    """As `open_candidate`, or a stored result of a gate. Raises what that raises, and `ConfigInvalid`."""
    if not path.exists():
        raise ModelNotFound(
            "There is no baseline at this path.",
            where=str(path),
            next="give --baseline a model, a bundle, git:REVISION, or what an earlier gate printed with --json",
        )
    return read_stored(path) if _is_json(path) else open_candidate(path, reading, name=name)


def check_inputs(candidate: Opened, baseline: Opened) -> None:
    """Raises `UnsupportedModel` when the two do not take the same inputs, or not as many at a time."""
    one, other = ([(t.name, t.dtype, t.shape[1:]) for t in side.signature.inputs] for side in (candidate, baseline))
    if [(name, dtype, _fixed(shape)) for name, dtype, shape in one] != [
        (name, dtype, _fixed(shape)) for name, dtype, shape in other
    ]:
        raise UnsupportedModel(
            f"{candidate.side.name} and {baseline.side.name} take different inputs, so they cannot be compared on the "
            "same ones.",
            next="give the baseline of this model",
        )
    batches = fixed_batch(candidate), fixed_batch(baseline)
    if None not in batches and len(set(batches)) > 1:
        raise UnsupportedModel(
            f"{candidate.side.name} takes {batches[0]} samples at a time and {baseline.side.name} {batches[1]}, so "
            "they cannot be compared on the same queries.",
            next="export one of them again, with the batch of the other or a free one",
        )


def fixed_batch(opened: Opened | Stored) -> int | None:
    """The batch that a model's file fixes, if it does."""
    if isinstance(opened, Stored) or opened.signature.batch is not None:
        return None
    return next((dim for tensor in opened.signature.inputs for dim in tensor.shape[:1] if isinstance(dim, int)), None)


def operators_of(artifact: Artifact) -> Mapping[str, int]:
    """Nodes of each kind, sub-graphs included."""
    import onnx

    graph = onnx.load(str(artifact.main), load_external_data=False).graph
    return dict(sorted(Counter(node.op_type for node in walk(graph)).items()))


def _fixed(shape: tuple[int | str, ...]) -> tuple[int | None, ...]:
    """What two exports must agree on: a free dimension may have any name."""
    return tuple(size if isinstance(size, int) else None for size in shape)


def _is_json(path: Path) -> bool:
    """Whether a file is meant as a stored result: by its name, or because it begins as JSON does, and no model does."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return path.suffix == ".json" or stream.read(_FIRST).lstrip().startswith(b"{")
