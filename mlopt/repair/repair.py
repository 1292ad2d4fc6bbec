"""A model's weights for a quantized copy of it, layer after layer, each made good for the errors before it."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.moments import aim, corrected, moments_of, walks
from mlopt.repair.pairs import MOST, alone, heaviest, scales
from mlopt.repair.rounding import Grid, Problem, rounded

if TYPE_CHECKING:
    import numpy as np

    from mlopt.repair.moments import Feeds

_SAMPLES: Final = 64  # twice as many were seen to change little, and to take twice the time
_HOLD: Final = 100.0  # positions of one picture are alike, and say less than as many of different ones
_STRETCHES: Final = 4  # of a scale, before neighbours that do not fit get seven bits each


@dataclass(frozen=True, slots=True)
class WeightGrid:
    """The scales of one weight tensor in the quantized model: one, or one for each entry of `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None


def repair(model: Any, quantized: Any, feeds: Feeds, *, paired: bool = False) -> dict[str, WeightGrid]:
    """Change the weights and biases of `model` to values that its quantized copy represents exactly.

    `quantized` is the copy as an onnx.ModelProto with QuantizeLinear/DequantizeLinear pairs, nodes named as in
    `model`; `paired`, that sums of two of its products must fit into 16 bits (`pairs.py`). Returns the grids by the
    names of the weights.
    """
    import numpy as np
    from onnx import numpy_helper

    layers = layers_of(model.graph)
    grids: dict[str, WeightGrid] = {}
    changed: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        exact, copy = walks(model, quantized, feeds, Path(scratch), samples=_SAMPLES)
        copied = {node.name: node for node in quantized.graph.node}
        dequantizers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        for together in _together(layers, copied, dequantizers, copy.constants):
            matrices = [layer.matrix(exact.constants[layer.weight].astype("float64")) for layer in together]
            weights, first = np.concatenate(matrices, axis=1), together[0]
            pairs = zip(exact.reach(first.input), copy.reach(copied[first.name].input[0]), strict=True)
            moments = moments_of(first, weights, pairs, exact.samples)
            if not moments.count:  # nothing ever came here
                continue
            problem, row = Problem.of(*aim(weights, moments, hold=_HOLD)), 0
            for layer, matrix in zip(together, matrices, strict=True):
                node = copied[layer.name]
                stored = dequantizers[node.input[1]]
                rows = slice(row, row := row + matrix.shape[1])
                codes, grid = _rounded(layer, problem.rows(rows), _grid(layer, copy.constants, stored), paired=paired)
                values = grid.values(codes)
                grids[layer.weight] = _as_stored(layer, grid, copy.constants[stored.input[1]].ndim)
                changed[layer.weight] = layer.tensor(values).astype("float32")
                copy.constants[node.input[1]] = changed[layer.weight]
                if layer.bias:
                    bias = corrected(exact.constants[layer.bias], matrix, values, moments)
                    changed[layer.bias] = copy.constants[node.input[2]] = bias.astype("float32")
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return grids


def _together(
    layers: Iterable[Layer], copied: Mapping[str, Any], dequantizers: Mapping[str, Any], constants: Container[str]
) -> Iterator[list[Layer]]:
    """The layers that are quantized, in order; neighbours that take the same from the same tensor (queries, keys and
    values of attention) together: one set of moments holds for all of them."""

    def kind(layer: Layer) -> tuple[object, ...]:
        window = layer.shape[1:] if layer.operator == "Conv" else layer.channels_in
        reads = (layer.input, copied[layer.name].input[0], bool(layer.bias))
        return (*reads, layer.operator == "Conv", layer.groups, window, layer.padding, layer.strides, layer.dilations)

    def quantized(layer: Layer) -> bool:
        stored = dequantizers.get(copied[layer.name].input[1]) if layer.name in copied else None
        return stored is not None and stored.input[0] in constants

    for _, together in itertools.groupby(filter(quantized, layers), kind):
        yield list(together)


def _rounded(layer: Layer, problem: Problem, grid: Grid, *, paired: bool) -> tuple[np.ndarray, Grid]:
    """Codes, and the grid they are on."""
    paired = paired and not alone(layer.operator, layer.shape, layer.groups)
    return _in_pairs(layer, problem, grid) if paired else rounded(problem, grid)


def _in_pairs(layer: Layer, problem: Problem, grid: Grid) -> tuple[np.ndarray, Grid]:
    """`rounded`, on a grid that is as wide as neighbours need to fit into 16 bits together."""
    import numpy as np

    for _ in range(_STRETCHES):
        codes, made = rounded(problem, grid, shrink=False)
        over = heaviest(layer, layer.tensor(codes))
        if over.max() <= MOST:
            return codes, made
        wider = np.where(over > MOST, over / (MOST - 2), 1.0)
        grid = replace(grid, scale=grid.scale * (wider.max() if grid.shared else wider[..., None]))
    return rounded(problem, replace(grid, low=-MOST // 2, high=MOST // 2))


def _grid(layer: Layer, constants: Mapping[str, np.ndarray], stored: Any) -> Grid:
    import numpy as np

    codes, scale = constants[stored.input[0]], constants[stored.input[1]].astype(np.float64)
    zero = constants[stored.input[2]].astype(np.float64)
    shape = (layer.groups, layer.channels_out // layer.groups, 1)
    scale, zero = (np.full(shape, each) if each.size == 1 else each.reshape(shape) for each in (scale, zero))
    low, high = (-127, 127) if codes.dtype == np.int8 else (0, 255)
    return Grid(scale, zero, low, high, constants[stored.input[1]].ndim == 0)


def _as_stored(layer: Layer, grid: Grid, rank: int) -> WeightGrid:
    scale, zero = grid.scale.ravel(), grid.zero.ravel()
    if rank == 0:
        return WeightGrid((float(scale[0]),), (int(zero[0]),), None)
    return WeightGrid(tuple(float(each) for each in scale), tuple(int(each) for each in zero), 1 if layer.turned else 0)


def paired_grids(graph: Any, *, per_channel: bool, but: Collection[str] = ()) -> dict[str, WeightGrid]:
    """Grids for the weights of a graph's layers, `but` these, on which no sum of two products passes 16 bits
    (`pairs.py`)."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = {}
    for layer in layers_of(graph):
        if layer.name in but:
            continue
        scale = scales(layer, numpy_helper.to_array(constants[layer.weight]), shared=not per_channel)
        axis = (1 if layer.turned else 0) if per_channel else None
        each = tuple(float(value) for value in (scale.ravel() if per_channel else scale.ravel()[:1]))
        found[layer.weight] = WeightGrid(each, (0,) * len(each), axis)
    return found
