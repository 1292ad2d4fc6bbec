"""Products of int8 weights with activations that each query rounds for itself: nothing is observed beforehand."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from mlopt.repair.layers import Layer, layers_of

if TYPE_CHECKING:
    import numpy as np

_LARGEST = 127


def dense_layers(graph: Any, shortest: int) -> tuple[Layer, ...]:
    """The convolutions over all channels and products with weights whose dot products have `shortest` terms or more:
    of shorter ones, and of depthwise convolutions, conversions take longer than integers save."""
    return tuple(
        layer
        for layer in layers_of(graph)
        if layer.groups == 1 and math.prod(layer.shape) // layer.channels_out >= shortest
    )


def hybrid(model: Any, layers: Collection[Layer]) -> Any:
    """A copy in which these read int8 weights, symmetric with a scale for each output channel, and what
    DynamicQuantizeLinear makes of their inputs (ONNX operators, opset 11): 8 bits from the least to the largest value
    of the query, zero among them."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    by_name = {layer.name: layer for layer in layers}
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    rounded: set[str] = set()
    nodes = []
    for node in copy.graph.node:
        if layer := by_name.get(node.name):
            codes, scale = _on_grid(layer, numpy_helper.to_array(weights[layer.weight]))
            weights[layer.weight].CopyFrom(numpy_helper.from_array(codes, layer.weight))
            grid = [f"{layer.weight}_scale", f"{layer.weight}_zero"]
            copy.graph.initializer.extend(
                numpy_helper.from_array(array, name)
                for name, array in zip(grid, (scale, np.zeros(scale.shape, np.int8)), strict=True)
            )
            values, read = f"{layer.weight}_values", f"{layer.input}_rounded"
            if read not in rounded:
                parts = [f"{layer.input}_{part}" for part in ("codes", "scale", "zero")]
                nodes.append(helper.make_node("DynamicQuantizeLinear", [layer.input], parts, name=parts[0]))
                nodes.append(helper.make_node("DequantizeLinear", parts, [read], name=read))
                rounded.add(read)
            axis = 1 if layer.turned else 0
            nodes.append(helper.make_node("DequantizeLinear", [layer.weight, *grid], [values], name=values, axis=axis))
            node.input[0], node.input[1] = read, values
        nodes.append(node)
    made = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(made)
    return copy


def _on_grid(layer: Layer, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the weights' shape, int8, and scales [output channels]."""
    import numpy as np

    matrix = layer.matrix(weights)[0]
    most = np.abs(matrix).max(axis=1, initial=0.0)
    scale = np.where(most > 0, most / _LARGEST, 1.0).astype(np.float32)
    codes = np.clip(np.rint(matrix / scale[:, None]), -_LARGEST, _LARGEST).astype(np.int8)
    return np.ascontiguousarray(layer.tensor(codes[None])), scale
