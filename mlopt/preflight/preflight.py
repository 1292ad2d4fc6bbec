"""Everything that can be said here of a model on its way to TensorRT on some GPU, without that GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.engines import RTX_CAPABILITIES, NoShapes, ShapeRange, shape_ranges, why_no_rtx
from mlopt.errors import Misused, MloptError
from mlopt.jetpack import releases
from mlopt.onnx_file import load_graph
from mlopt.preflight import graph as graphs
from mlopt.preflight.dla import on_dla
from mlopt.preflight.finding import Finding
from mlopt.preflight.memory import need
from mlopt.signature import signature_of
from mlopt.step import installed
from mlopt.steps.build_tensorrt_rtx import BuildTensorrtRtx
from mlopt.units import Bytes, format_bytes

if TYPE_CHECKING:
    from mlopt.artifact import Artifact
    from mlopt.signature import InputSpec
    from mlopt.store import Store
    from mlopt.target import Stack, Target

_MOST: Final = 8  # what an engine takes at a time where nobody said: BuildTensorrtRtx.max_batch
_SHARED: Final = 0.75  # of memory that CPU and GPU share, what the system and the builder's process leave


@dataclass(frozen=True, slots=True)
class Preflight:
    """`facts` are sentences on what was asked of whom, and what fits; `findings` what does not."""

    facts: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.certain)


def stack_of(target: Target, jetpack: str | None = None) -> Stack:
    """The stack with TensorRT to ask about. Raises `Misused` when the target has none, or not that JetPack."""
    stacks = [stack for stack in target.stacks if stack.tensorrt]
    if target.gpu is None or not stacks:
        raise Misused(f"{target.name} has no TensorRT.", next="mlopt targets list shows the targets with a GPU (SM)")
    if jetpack is None:
        return stacks[0]
    found = next((stack for stack in stacks if stack.jetpack == jetpack), None)
    if found is None:
        runs = ", ".join(stack.jetpack for stack in stacks if stack.jetpack) or "none"
        raise Misused(f"{target.name} does not run JetPack {jetpack}.", next=f"it runs {runs}")
    return found


def preflight(
    model: Artifact,
    target: Target,
    stack: Stack,
    store: Store,
    *,
    inputs: Mapping[str, InputSpec],
    precision: str | None = None,
) -> Preflight:
    """Hold an ONNX model against the lists of the stack's TensorRT, the GPU's precisions and its memory, and let
    TensorRT for RTX compile it: as the engine where it serves the GPU, as a stand-in elsewhere."""
    assert stack.tensorrt
    served = not why_no_rtx(target)
    facts = [] if served else [_asked(target, stack)]
    loaded = _inferred(model.main)
    if target.gpu and target.gpu.dla and stack.jetpack in (known := releases()) and known[stack.jetpack].dla:
        facts.append(on_dla(loaded))
    findings = [*graphs.precision(target, stack.tensorrt, precision)] if precision else []
    # Where its own compiler can be asked, that reads other operators than the lists say.
    findings += graphs.graph(loaded, target, stack.tensorrt, lists=not served)
    try:
        shapes = shape_ranges(signature_of(model.main), inputs, _MOST)
    except NoShapes as error:
        return Preflight(tuple(facts), (*findings, Finding(error.what, next=error.next)))
    said, found = _memory(loaded, target, shapes)
    facts.append(said)
    findings += found
    if any(finding.certain for finding in findings):
        return Preflight((*facts, "no compiler was asked after that"), tuple(findings))
    said, found = _compiled(model, target, store, shapes, served=served)
    return Preflight((*facts, said), (*findings, *found))


def _asked(target: Target, stack: Stack) -> str:
    assert target.gpu
    jetpack = f" of JetPack {stack.jetpack}" if stack.jetpack else ""
    return (
        f"held against TensorRT {stack.tensorrt}{jetpack} and compute capability {target.gpu.compute_capability}: its "
        "lists of operators and types, and its precisions"
    )


def _inferred(path: Path) -> Any:
    """The graph with shapes inferred, without weights that lie beside it."""
    import onnx

    model = load_graph(path)
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # a graph that cannot be inferred is still held against the lists
        return model


def _memory(model: Any, target: Target, shapes: tuple[ShapeRange, ...]) -> tuple[str, list[Finding]]:
    assert target.gpu
    needed = need(model, {shape.name: shape.most for shape in shapes})
    own = target.gpu.memory
    room = own or Bytes(int((target.memory or 0) * _SHARED))
    where = (
        f"{format_bytes(own)} of the GPU"
        if own
        else f"{format_bytes(room)}, {_SHARED * 100:.0f} % of what CPU and GPU share"
    )
    unknown = f", {needed.unknown} values of unknown size left out" if needed.unknown else ""
    said = (
        f"memory: weights {format_bytes(needed.weights)} and at most {format_bytes(needed.activations)} of values in "
        f"use at once (estimated{unknown}), to build about twice that; there are {where}"
    )
    if not room or needed.to_build <= room:
        return said, []
    runs = needed.to_run <= room
    return said, [
        Finding(
            f"{'Building' if runs else 'Running'} it takes about "
            f"{format_bytes(Bytes(needed.to_build if runs else needed.to_run))}, and {target.name} has {where}",
            next="build for a smaller most under [inputs.NAME] in mlopt.toml, in fewer bits, or for a larger board",
            certain=not runs,
        )
    ]


def _compiled(
    model: Artifact, target: Target, store: Store, shapes: tuple[ShapeRange, ...], *, served: bool
) -> tuple[str, list[Finding]]:
    assert target.gpu
    version = installed("tensorrt-rtx")
    capability = target.gpu.compute_capability if served else stand_in(target)
    if version is None:
        return "no compiler was asked: TensorRT for RTX is not installed here (pip install 'mlopt[tensorrt]')", []
    if not capability:
        return f"no compiler was asked: TensorRT for RTX serves nothing like {target.gpu.compute_capability}", []
    name = f"TensorRT for RTX {version}"
    proxy = f"proxy: {name}, another compiler for another GPU ({capability}),"
    try:
        engine = store.run(BuildTensorrtRtx((capability,), max_batch=_MOST, shapes=shapes), model)
    except MloptError as error:
        what = error.what if served else f"{proxy} refuses it; TensorRT on the device may not. It says: {error.what}"
        said = f"{name} refuses it" if served else f"{proxy} refuses it"
        return said, [Finding(what, next=error.next, certain=served)]
    size = format_bytes(engine.main.stat().st_size)
    if served:
        return f"{name} compiles it for {capability}: {size}, built and not run", []
    return f"{proxy} compiles it: {size}. That is no engine for {target.name}", []


def stand_in(target: Target) -> str:
    """The compute capability to compile for in place of one that TensorRT for RTX does not serve: the nearest below,
    or the first with FP4 for a GPU that has it. Empty: there is none."""
    assert target.gpu
    if "fp4" in target.gpu.precisions:
        return "12.0"
    below = [one for one in RTX_CAPABILITIES if tuple(map(int, one.split("."))) <= target.gpu.sm]
    return below[-1] if below else ""


def notes(found: Mapping[str, Preflight]) -> Iterator[str]:
    """What a report says of candidates' models, by name; what holds for all of them stands there once."""
    shared = [fact for fact in next(iter(found.values())).facts if all(fact in one.facts for one in found.values())]
    if shared:
        yield f"Preflight of {', '.join(found)}: {'; '.join(shared)}."
    for name, one in found.items():
        if own := [fact for fact in one.facts if fact not in shared]:
            yield f"Preflight of {name}: {'; '.join(own)}."
        for finding in one.findings:
            yield f"Preflight {'refuses' if finding.certain else 'doubts'} {name}: {finding.sentence}"
