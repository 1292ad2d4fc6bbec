"""Where the values of an export and of its source first part: the nodes that an exporter got wrong."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.array_files import load_arrays
from mlopt.artifact import Artifact
from mlopt.check.differences import difference
from mlopt.convert.rows import split_rows
from mlopt.convert.session import OrtFailed, Session
from mlopt.errors import MloptError
from mlopt.sniff import TORCHSCRIPT
from mlopt.steps.reference_outputs import FeedSets, ReferenceOutputs

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

# Channels last and channels first of the same values: converters move transposes about under the same names.
_LAYOUTS: Final = {3: ((0, 2, 1),), 4: ((0, 2, 3, 1), (0, 3, 1, 2)), 5: ((0, 2, 3, 4, 1), (0, 4, 1, 2, 3))}
# What a TFLite convolution or a folded one may hold beside its weights.
_FUSED: Final = frozenset({"Add", "Relu", "Clip", "BatchNormalization", "Transpose"})
_FUSED_DEPTH: Final = 3
_NAMED: Final = 4


def first_parting(
    source: Artifact, exported: Artifact, step: ReferenceOutputs, feeds: Arrays, outputs: Arrays, tolerance: float
) -> tuple[str, ...]:
    """The nodes of the export between the last values that agree and the first that do not, nearest first.

    `outputs` are the source's answers to `feeds`. Values inside are matched by name: torch.export's node names,
    TensorFlow's and TFLite's tensor names, ONNX's own. Empty when the source gives no inner values (TorchScript),
    or when all that can be compared agree.
    """
    import onnx

    if source.format == TORCHSCRIPT:
        return ()
    graph = onnx.load(str(exported.main)).graph
    names = tuple(name for node in graph.node for name in node.output if name)
    for rows, answers in _narrowed(step, feeds, outputs):
        try:
            expected = {**_inner(source, step, rows, names), **answers}
            actual = Session(exported.main, watch=names).run(rows)
        except (MloptError, OrtFailed):
            return ()
        agree = _agreement(graph, expected, actual, tolerance)
        parted = next((node for node in graph.node if any(agree.get(name) is False for name in node.output)), None)
        if parted is not None:
            return tuple(_suspects(graph, parted, agree))
    return ()


def _narrowed(step: ReferenceOutputs, feeds: Arrays, outputs: Arrays) -> Iterator[tuple[Arrays, Arrays]]:
    """Each row alone first: joined rows of inner values need not be what a batch has there. Then all at once."""
    rows = split_rows(feeds, step.input_axes)
    if len(rows) > 1:
        yield from zip(rows, split_rows(outputs, step.output_axes), strict=True)
    yield feeds, outputs


def _agreement(graph: Any, expected: Arrays, actual: Arrays, tolerance: float) -> dict[str, bool]:
    """By value name, for those that both have. A source may fuse what follows into a value of the same name."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def candidates(name: str) -> Iterator[str]:
        yield name
        for _ in range(_FUSED_DEPTH):
            if len(readers.get(name, ())) != 1 or readers[name][0].op_type not in _FUSED:
                return
            name = readers[name][0].output[0]
            yield name

    return {
        name: any(agrees(value, actual[each], tolerance) for each in candidates(name) if each in actual)
        for name, value in expected.items()
        if name in actual and value.size == actual[name].size
    }


def agrees(expected: np.ndarray, actual: np.ndarray, tolerance: float) -> bool:
    """Within tolerance, as they are or with the channels moved."""
    if difference(expected, actual).max_relative <= tolerance:
        return True
    moved = (expected.transpose(axes) for axes in _LAYOUTS.get(expected.ndim, ()))
    return any(difference(each, actual).max_relative <= tolerance for each in moved if each.shape == actual.shape)


def _inner(source: Artifact, step: ReferenceOutputs, feeds: Arrays, names: tuple[str, ...]) -> dict[str, Any]:
    """The source's own values of these names, for one set of feeds. Not kept: they are large and needed once."""
    watching = dataclasses.replace(step, feeds=FeedSets((feeds,)), watch=names)
    with tempfile.TemporaryDirectory(prefix="mlopt-inner-") as scratch:
        watching.run(source, Path(scratch))
        return next(load_arrays(Path(scratch)), {})


def _suspects(graph: Any, parted: Any, agree: Mapping[str, bool]) -> Iterator[str]:
    """The node of the first wrong value, and those before it whose values could not be compared."""
    makers = {name: node for node in graph.node for name in node.output}
    pending, seen = [parted], set[str]()
    while pending and len(seen) < _NAMED:
        node = pending.pop(0)
        if node.name in seen or (node.op_type == "Constant"):
            continue
        seen.add(node.name)
        yield f"{node.name} ({node.op_type})"
        pending += [makers[name] for name in node.input if name in makers and name not in agree]
