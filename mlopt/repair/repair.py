"""A model's weights for a quantized copy of it, layer after layer, each made good for the errors before it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.moments import Moments, aim, corrected, moments_of, walks
from mlopt.repair.pairs import MOST, alone, heaviest, scales
from mlopt.repair.rounding import Grid, rounded

if TYPE_CHECKING:
    import numpy as np

    from mlopt.repair.moments import Feeds

_SAMPLES: Final = 64  # twice as many were seen to change little, and to take twice the time
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
    from onnx import numpy_helper

    layers = layers_of(model.graph)
    grids: dict[str, WeightGrid] = {}
    changed: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        exact, copy = walks(model, quantized, feeds, Path(scratch), samples=_SAMPLES)
        copied = {node.name: node for node in quantized.graph.node}
        dequantizers = {node.output[0]: node for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
        for layer in layers:
            node = copied.get(layer.name)
            stored = dequantizers.get(node.input[1]) if node is not None else None
            if node is None or stored is None or stored.input[0] not in copy.constants:
                continue
            weights = layer.matrix(exact.constants[layer.weight].astype("float64"))
            pairs = zip(exact.reach(layer.input), copy.reach(node.input[0]), strict=True)
            moments = moments_of(layer, weights, pairs, exact.samples)
            if not moments.count:  # nothing ever came here
                continue
            grid = _grid(layer, copy.constants, stored)
            bias = exact.constants.get(layer.bias)
            values, grid, bias = _repaired(layer, weights, bias, moments, grid, paired=paired)
            grids[layer.weight] = _as_stored(layer, grid, copy.constants[stored.input[1]].ndim)
            changed[layer.weight] = layer.tensor(values).astype("float32")
            copy.constants[node.input[1]] = changed[layer.weight]
            if bias is not None:
                changed[layer.bias] = copy.constants[node.input[2]] = bias.astype("float32")
    for tensor in model.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return grids


def _repaired(
    layer: Layer, weights: np.ndarray, bias: np.ndarray | None, moments: Moments, grid: Grid, *, paired: bool
) -> tuple[np.ndarray, Grid, np.ndarray | None]:
    """Values on a grid, the grid, and the bias."""
    wanted, gram = aim(weights, moments)
    paired = paired and not alone(layer.operator, layer.shape, layer.groups)
    codes, grid = _in_pairs(layer, wanted, gram, grid) if paired else rounded(wanted, gram, grid)
    values = grid.values(codes)
    return values, grid, None if bias is None else corrected(bias, weights, values, moments)


def _in_pairs(layer: Layer, wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> tuple[np.ndarray, Grid]:
    """`rounded`, on a grid that is as wide as neighbours need to fit into 16 bits together."""
    import numpy as np

    for _ in range(_STRETCHES):
        codes, made = rounded(wanted, gram, grid, shrink=False)
        over = heaviest(layer, layer.tensor(codes))
        if over.max() <= MOST:
            return codes, made
        wider = np.where(over > MOST, over / (MOST - 2), 1.0)
        grid = replace(grid, scale=grid.scale * (wider.max() if grid.shared else wider[..., None]))
    return rounded(wanted, gram, replace(grid, low=-MOST // 2, high=MOST // 2))


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
