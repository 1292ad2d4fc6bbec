"""Which candidates to make of a model for a target, in which steps, and which recipes not, and why not.

Pure: nothing is run or measured here, but that a Python besides this one is asked what it has. What comes back is what
`mlopt compile --dry-run` prints.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import metadata
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mlopt import registry
from mlopt.engines import NoShapes, built_on_device, shape_ranges, why_no_engine
from mlopt.errors import ConfigInvalid
from mlopt.intervals import NO_CHANGES, Allowed
from mlopt.recipe import Recipe, StepSpec
from mlopt.report.report import LeftOut
from mlopt.request import Server
from mlopt.rounding import HYBRID_CHANGES, least_sqnr
from mlopt.step import Step, installed, other_python
from mlopt.target import HOST, NEWEST_OPSET, Target
from mlopt.units import format_percent, format_points

if TYPE_CHECKING:
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples
    from mlopt.signature import InputSpec, Signature

BASELINE: Final = "baseline"
_MULTIPLIES_BF16: Final = frozenset({"avx512-bf16", "amx-bf16"})
# Of answers that stay where a profile bounds accuracy lost, in what is to be near-lossless; and decibel to spare, for a
# step sees the noise of a few inputs.
_AGREEMENT, _SPARE = 0.95, 0.5
_QUANTIZED: Final = frozenset({"QuantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulNBits", "ConvInteger"})
# Where the wheels of a runtime exist.
_RUNTIME_PLATFORMS: Final = {
    "onnxruntime": ("linux/amd64", "linux/arm64"),
    "openvino": ("linux/amd64", "linux/arm64"),
    "litert": ("linux/amd64", "linux/arm64"),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipe made concrete: its steps, ready to run one after the other on the exported model."""

    name: str
    summary: str
    precision: str
    runtime: str
    steps: tuple[Step, ...]
    engine: Step | None = None
    """Makes an engine for the target's GPU of what the steps made, or what the device needs to build one."""
    no_faster_than: str = ""
    """Another candidate, which runs the same kernels at least; "" too for what somebody asked for by name."""

    @property
    def searches(self) -> bool:
        """Whether a step is told what answers may lose, and looks for the most int8 inside it."""
        return any(hasattr(step, "allowed") or hasattr(step, "least_sqnr") for step in self.steps)


@dataclass(frozen=True, slots=True)
class Plan:
    """`candidates[0]` is the baseline: the exported model as it is."""

    candidates: tuple[Candidate, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def device_builds(self) -> tuple[str, ...]:
        """Candidates whose engines only the device can build."""
        return tuple(one.name for one in self.candidates if one.engine and built_on_device(one.engine.name))

    @property
    def baseline(self) -> Candidate:
        return self.candidates[0]

    def without(self, reasons: Mapping[str, str]) -> Plan:
        """The plan as it is once the clocks have said why these need not be made."""
        left = (LeftOut(name, reason) for name, reason in reasons.items())
        return Plan(tuple(one for one in self.candidates if one.name not in reasons), (*self.left_out, *left))


def plan(
    signature: Signature,
    target: Target,
    recipes: Sequence[Recipe],
    calibration: Samples | None,
    probe: Samples | GeneratedSamples,
    allowed: Allowed,
    *,
    inputs: Mapping[str, InputSpec] = MappingProxyType({}),
    asked: Collection[str] = (),
    server: Server = "python",
) -> Plan:
    """Pair the recipes that are legal for this model on this target with their steps; give a reason for the rest.

    `calibration` is what ranges are observed on, None when nobody gave samples; `probe` is inputs that the
    model takes, real or generated, for steps that look whether values overflow, or how much noise there is.
    `allowed` is what the answers of a variant may lose, for steps that search inside it; `inputs` what mlopt.toml says
    of them. `asked` are the recipes that somebody named, `server` is what will serve the winner.
    """
    candidates = [Candidate(BASELINE, "the exported model, unchanged", _precision(signature), "onnxruntime", ())]
    left_out = []
    for recipe in recipes:
        reason = _no_engine(recipe, signature, target, inputs) or _illegal(recipe, signature, target, calibration)
        reason = reason or _unserved(recipe, server)
        reason = reason or (hopeless(allowed) if _searches(recipe) else "")
        if not reason and recipe.on_request and recipe.name not in asked:
            reason = f"it takes long to make; ask for it with --recipe {recipe.name}"
        reason = reason or _no_python(recipe)  # last: asking another Python takes a process
        if reason:
            left_out.append(LeftOut(recipe.name, reason))
            continue
        raised = (StepSpec("raise-opset", {"opset": recipe.min_opset}),) if recipe.min_opset > signature.opset else ()
        specs = (*raised, *recipe.steps)
        steps = tuple(_step(spec, recipe, target, calibration, probe, allowed) for spec in specs)
        engine = None
        if recipe.engine:
            engine = _step(recipe.engine, recipe, target, calibration, probe, allowed)
            shapes = shape_ranges(signature, inputs, getattr(engine, "max_batch", 1))
            engine = dataclasses.replace(engine, shapes=shapes)  # type: ignore[type-var]
        reference = recipe.no_faster_than if recipe.name not in asked else ""
        candidates.append(
            Candidate(recipe.name, recipe.summary, recipe.precision, recipe.runtime, steps, engine, reference)
        )
    begins = {recipe.name: recipe.begins_as for recipe in recipes}
    planned = {candidate.name: candidate.steps for candidate in candidates}
    together = (
        dataclasses.replace(one, steps=_begun_as(one.steps, planned.get(begins.get(one.name, ""), ())))
        for one in candidates
    )
    return Plan(tuple(together), tuple(left_out))


def _begun_as(steps: tuple[Step, ...], others: tuple[Step, ...]) -> tuple[Step, ...]:
    """`steps` with the options of `others`, one after the other, as far as both kinds have them; as they are where
    these are not as many. A search is a fallback then."""
    if len(steps) != len(others):
        return steps
    return tuple(
        dataclasses.replace(
            step,  # type: ignore[type-var]
            **{name: getattr(other, name) for name in _fields(type(step)) & _fields(type(other))},
            **({"fallback": True} if "fallback" in _fields(type(step)) else {}),
        )
        for step, other in zip(steps, others, strict=True)
    )


def _unserved(recipe: Recipe, server: Server) -> str:
    if server == "native" and recipe.runtime != "onnxruntime":
        return f"the native server has no {recipe.runtime}; serve it with --server python"
    return ""


def _illegal(recipe: Recipe, signature: Signature, target: Target, calibration: Samples | None) -> str:
    """Why not, in one sentence; empty when it is legal."""
    operators = set(signature.op_types)
    if recipe.runtime not in registry.names("mlopt.runners"):
        return f"its runtime {recipe.runtime!r} is not known to this mlopt"
    if target.platform not in _RUNTIME_PLATFORMS.get(recipe.runtime, (target.platform,)):
        return f"{recipe.runtime} has no build for {target.platform}"
    runner = registry.load("mlopt.runners", recipe.runtime)
    if getattr(runner, "on_gpu", False) and (reason := _no_gpu_here(target)):
        return reason
    if missing := [name for name in runner.distributions if not installed(name)]:
        return f"{missing[0]} is not installed here: {_command(getattr(runner, 'extra', recipe.runtime))}"
    quantized = sorted(operators & _QUANTIZED)
    if quantized and recipe.precision != "fp32":
        return f"the model is quantized already (it holds {quantized[0]})"
    if recipe.needs_ops and not operators & set(recipe.needs_ops):
        return f"the model has no {' or '.join(recipe.needs_ops)}"
    if recipe.needs_isa and not set(target.cpu.isa) & set(recipe.needs_isa):
        return f"{target.name}'s CPU has none of {', '.join(recipe.needs_isa)}"
    if recipe.min_opset > max(signature.opset, min(target.opset, NEWEST_OPSET)):
        return f"it needs opset {recipe.min_opset}, and what runs on {target.name} reads {target.opset}"
    if recipe.needs_samples and calibration is None:
        return "it needs samples to observe ranges on; give --samples"
    return ""


def _no_gpu_here(target: Target) -> str:
    """Why what ONNX Runtime would run on the target's GPU can be neither asked nor timed here; empty where it can."""
    if target.gpu is None:
        return f"{target.name} has no NVIDIA GPU"
    if target.name != HOST:
        return f"it runs on the GPU of {target.name} and nowhere else: compile on that machine, --target {HOST}"
    return ""


def _command(extra: str) -> str:
    """What brings a runtime, if there is an extra for it."""
    known = extra in (metadata("mlopt").get_all("Provides-Extra") or ())
    return f"pip install 'mlopt[{extra}]'" if known else "see mlopt doctor"


def _no_engine(recipe: Recipe, signature: Signature, target: Target, inputs: Mapping[str, InputSpec]) -> str:
    """Why the recipe's engine cannot be made; empty when it can, or has none."""
    if recipe.engine is None:
        return ""
    if reason := why_no_engine(recipe.engine.name, target, recipe.precision, sparse=recipe.sparse):
        return reason
    kind = registry.load("mlopt.steps", recipe.engine.name)
    if missing := [name for name in kind.requires if not installed(name)]:
        return f"{missing[0]} is not installed here: pip install 'mlopt[tensorrt]'"
    try:
        shape_ranges(signature, inputs, 1)
    except NoShapes as error:
        return str(error)
    return ""


def _no_python(recipe: Recipe) -> str:
    """Why the Python that runs a tool of the recipe elsewhere cannot be used; empty when it can, or none is needed."""
    for spec in recipe.steps:
        other = other_python(registry.load("mlopt.steps", spec.name))
        if other and (reason := other.why_not()):
            return reason
    return ""


def hopeless(allowed: Allowed) -> str:
    """That so few samples prove the budget for no model that changes any answer, and what they do prove; or ""."""
    if not allowed.hopeless:
        return ""
    least = allowed.drop_for(NO_CHANGES)
    cannot = f"{allowed.samples} evaluation samples cannot prove"
    if allowed.drop is not None and least is not None and least > allowed.drop:
        return (
            f"{cannot} a drop of at most {format_points(allowed.drop)} for any model that changes an answer; the least "
            f"that they can is {format_points(math.ceil(1000 * least) / 1000)}"
        )
    assert allowed.agreement is not None
    most = math.floor(1000 * allowed.agreement_for(NO_CHANGES)) / 1000
    return (
        f"{cannot} that {format_percent(allowed.agreement)} of the answers stay for any model that changes one; the "
        f"most that they can is {format_percent(most)}"
    )


def _searches(recipe: Recipe) -> bool:
    return any("allowed" in _fields(registry.load("mlopt.steps", spec.name)) for spec in recipe.steps)


def _fields(kind: Any) -> frozenset[str]:
    return frozenset(field.name for field in dataclasses.fields(kind))


def _step(
    spec: StepSpec,
    recipe: Recipe,
    target: Target,
    calibration: Samples | None,
    probe: Samples | GeneratedSamples,
    allowed: Allowed,
) -> Step:
    """The step that a recipe names, with its options, the calibration samples, the target's int8 scheme and
    width of kernels, and what the profile allows.

    Raises `ConfigInvalid` for an option that the step does not have or a value that it refuses, `UnknownName` for the
    step itself.
    """
    kind = registry.load("mlopt.steps", spec.name)
    fields = _fields(kind)
    options: dict[str, Any] = {}
    for key, value in spec.options.items():
        name = key.replace("-", "_")
        if name not in fields:
            near = difflib.get_close_matches(name, sorted(fields), n=1)
            guess = f" Did you mean {near[0].replace('_', '-')!r}?" if near else ""
            raise ConfigInvalid(
                f"Step {spec.name!r} has no option {key!r}.{guess}",
                where=f"recipe {recipe.name}",
                next=f"its options are {', '.join(sorted(f.replace('_', '-') for f in fields))}",
            )
        options[name] = tuple(value) if isinstance(value, list) else value
    if options.get("scheme") == "auto":
        options["scheme"] = target.int8_scheme
    if options.get("rest") == "auto":
        options["rest"] = "bf16" if set(target.cpu.isa) & _MULTIPLIES_BF16 else "f32"
    if options.get("multiple") == "auto":
        options["multiple"] = target.channel_multiple
    if options.get("compute_capabilities") == "auto":
        options["compute_capabilities"] = (target.gpu.compute_capability,) if target.gpu else ()
    if options.get("least_sqnr") == "auto":
        least = least_sqnr(_AGREEMENT if allowed.agreement is None else allowed.agreement, HYBRID_CHANGES)
        options["least_sqnr"] = round(max(least, allowed.sqnr or 0.0) + _SPARE, 1)
    if "calibration" in fields:
        options["calibration"] = calibration
    if "probe" in fields:
        options["probe"] = probe
    if "allowed" in fields:
        options["allowed"] = allowed
    try:
        step: Step = kind(**options)
    except ValueError as error:
        raise ConfigInvalid(
            f"Step {spec.name!r} cannot be set so: {error}.",
            where=f"recipe {recipe.name}",
            next="correct that option of the step",
        ) from error
    return step


def _precision(signature: Signature) -> str:
    if set(signature.op_types) & _QUANTIZED:
        return "int8"
    dtypes = {tensor.dtype for tensor in (*signature.inputs, *signature.outputs)}
    return "fp16" if "float16" in dtypes else "fp32"
