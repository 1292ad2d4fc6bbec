"""Does the export compute what its source computes? Measured output by output, at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt.array_files import load_arrays
from mlopt.artifact import Artifact
from mlopt.check.differences import Difference, difference
from mlopt.check.parting import first_parting
from mlopt.convert.batch import free_size_of
from mlopt.convert.process import Limits
from mlopt.convert.session import batch_axes
from mlopt.errors import ParityFailed
from mlopt.factory import find_factory
from mlopt.measurement import OutputParity
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.runners.trial import answered
from mlopt.signature import InputSpec, Signature, random_feeds, signature
from mlopt.step import installed
from mlopt.steps.reference_outputs import PROGRAMS, FeedSets, ReferenceOutputs
from mlopt.store import Store

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

# On OutputParity.max_relative: 1 % of a value, or 1e-5 of the output's largest where the value is near zero.
TOLERANCE: Final = 1e-2
_TOLERANCE_HALF: Final = 2e-1
# On max_absolute / largest |source|: integer kernels and QDQ round differently in every runtime.
_TOLERANCE_QUANTIZED: Final = 1e-1
# DequantizeLinear alone: 8-bit weights, which TFLite multiplies with activations that it rounds on the fly.
_QUANTIZED: Final = frozenset({"DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
_NEXT: Final = (
    "the exporter, or what mlopt assumes of the model, is at fault: report it with the model, or export by hand"
)
_NEXT_QUANTIZED: Final = "start from the model before it was quantized, and let mlopt quantize it"
_SECOND_BATCH: Final = 3
_SOURCES: Final = {
    "onnx": ("onnxruntime", " without optimisation"),
    "torch": ("torch", ""),
    "torchscript": ("torch", " (TorchScript)"),
    "keras": ("keras", ""),
    "tensorflow": ("tensorflow", ""),
    "tflite": ("tensorflow", " (TFLite interpreter)"),
}


@dataclass(frozen=True, slots=True)
class _Compared:
    """One output at one batch size, and whether it is within its tolerance."""

    parity: OutputParity
    passed: bool


def check_parity(
    source: Artifact,
    exported: Artifact,
    *,
    store: Store,
    factory: str | None = None,
    root: Path | None = None,
    inputs: Mapping[str, InputSpec] | None = None,
    feeds: Sequence[Arrays] | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    limits: Limits | None = None,
) -> tuple[OutputParity, ...]:
    """Run both on the same inputs: generated ones at batch 1 and 3, and `feeds` (real ones, whole batches) if given.

    An output passes when its `max_relative` is at most `tolerance` (default 1e-2; 0.2 for float16). Quantized
    models and integer outputs pass when `max_absolute` is at most 0.1 of the source's largest magnitude.
    Raises `ParityFailed` that names the nodes where the values first part; and what running the source raises.
    """
    found = signature(exported)
    given = inputs or {}
    sets = [*generated_feeds(exported, given=given, seed=seed), *(feeds or ())]
    step = _reference_step(exported, found, sets, factory, root, given, limits or Limits())
    answers = store.run(step, source)
    compared: list[_Compared] = []
    with OnnxRuntimeRunner(exported.main, threads=1) as runner:
        for one, expected in zip(sets, load_arrays(answers.path), strict=True):
            actual = dict(zip(runner.outputs, runner.infer(one), strict=True))
            of_set = [
                _compare(
                    name, expected[name], actual[name], found, _rows(one, step.input_axes), _source(source), tolerance
                )
                for name in runner.outputs
            ]
            if failed := [each.parity for each in of_set if not each.passed]:
                nodes = first_parting(source, exported, step, one, expected, tolerance or TOLERANCE)
                raise _failure(failed, nodes, quantized=_quantized(found))
            compared += of_set
    answered(OnnxRuntimeRunner.name, exported.main)
    return _worst(each.parity for each in compared)


def _worst(found: Iterable[OutputParity]) -> tuple[OutputParity, ...]:
    """One row for each output and batch size: the largest differences over the sets of feeds."""
    rows: dict[tuple[str, int], OutputParity] = {}
    for one in found:
        seen = rows.get((one.output, one.batch), one)
        rows[one.output, one.batch] = replace(
            one,
            max_absolute=max(one.max_absolute, seen.max_absolute),
            max_relative=max(one.max_relative, seen.max_relative),
            cosine=min(one.cosine, seen.cosine),
        )
    return tuple(rows.values())


def generated_feeds(exported: Artifact, *, given: Mapping[str, InputSpec], seed: int) -> list[dict[str, np.ndarray]]:
    """One set at batch 1 and one at batch 3, with sizes of free dimensions at which the model runs.

    A model of a fixed batch gets one set of that size.
    """
    found = signature(exported)
    free = free_size_of(exported.main, given)
    sizes = (1, _SECOND_BATCH) if found.batch is not None else (1,)
    return [random_feeds(found, batch=size, seed=seed, given=given, free=free) for size in sizes]


def _reference_step(
    exported: Artifact,
    found: Signature,
    sets: Sequence[Arrays],
    factory: str | None,
    root: Path | None,
    given: Mapping[str, InputSpec],
    limits: Limits,
) -> ReferenceOutputs:
    input_axes, output_axes = batch_axes(exported.main)
    return ReferenceOutputs(
        feeds=FeedSets(tuple(sets)),
        outputs=tuple(tensor.name for tensor in found.outputs),
        input_axes=input_axes,
        output_axes=output_axes,
        opset=found.opset,
        inputs={name: spec.text for name, spec in given.items()},
        factory=find_factory(factory, root=root) if factory else None,
        limits=limits,
    )


def _compare(
    name: str,
    expected: np.ndarray,
    actual: np.ndarray,
    found: Signature,
    rows: int,
    source: str,
    tolerance: float | None,
) -> _Compared:
    seen = difference(expected, actual)
    quantized = _quantized(found) or actual.dtype.kind not in "f"
    usual = _TOLERANCE_HALF if actual.dtype.name == "float16" else TOLERANCE
    limit = tolerance if tolerance is not None else _TOLERANCE_QUANTIZED if quantized else usual
    parity = OutputParity(
        output=name,
        batch=rows,
        max_absolute=seen.max_absolute,
        max_relative=seen.max_relative,
        cosine=seen.cosine,
        tolerance=limit,
        source=source,
    )
    return _Compared(parity, _within(seen, limit, quantized=quantized))


def _quantized(found: Signature) -> bool:
    return bool(_QUANTIZED & set(found.op_types))


def _within(seen: Difference, limit: float, *, quantized: bool) -> bool:
    if quantized:
        return seen.max_absolute <= max(limit * seen.largest, 1.0 if seen.integer else 0.0)
    return seen.max_relative <= limit


def _rows(feeds: Arrays, axes: Mapping[str, int]) -> int:
    return next((int(feeds[name].shape[axis]) for name, axis in axes.items() if name in feeds), 1)


def _source(source: Artifact) -> str:
    distribution, how = _SOURCES[PROGRAMS[source.format]]
    return f"{distribution} {installed(distribution)}{how}"


def _failure(failed: Sequence[OutputParity], nodes: Sequence[str], *, quantized: bool) -> ParityFailed:
    worst = max(failed, key=lambda parity: parity.max_relative)
    where = f"values first part at {', '.join(nodes)}" if nodes else "the source has no inner values to compare"
    return ParityFailed(
        f"The exported model and its source give different answers: output {worst.output!r} at batch {worst.batch} is "
        f"off by {worst.max_absolute:.3g} ({worst.max_relative:.3g} relative, {worst.tolerance:g} allowed).",
        where=where,
        next=_NEXT_QUANTIZED if quantized else _NEXT,
    )
