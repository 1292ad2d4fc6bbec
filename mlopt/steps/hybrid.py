"""Products of int8 weights with activations that each query rounds for itself: nothing is observed beforehand."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from mlopt.onnx_file import names_in
from mlopt.repair.layers import Layer, layers_of

if TYPE_CHECKING:
    import numpy as np

_LARGEST: Final = 127


def dense_layers(graph: Any, shortest: int) -> tuple[Layer, ...]:
    """The convolutions over all channels and products with weights of their own whose dot products have `shortest`
    terms or more: of shorter ones, and of depthwise convolutions, conversions take longer than integers save."""
    return tuple(
        layer
        for layer in layers_of(graph)
        if layer.groups == 1 and math.prod(layer.shape) // layer.channels_out >= shortest
    )


def hybrid(model: Any, layers: Collection[Layer]) -> Any:
    """A copy in which these read int8 weights, symmetric with a scale for each output channel, and what
    DynamicQuantizeLinear makes of their inputs: 8 bits from the least to the largest value of the query, zero among
    them (ONNX operators; opset 13, for the axis of the weights)."""
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.node[:]
    by_name, taken = {layer.name: layer for layer in layers}, names_in(model.graph)
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    rounded: dict[str, str] = {}

    def own(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    def add(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        copy.graph.node.append(helper.make_node(operator, inputs, outputs, name=own(outputs[0]), **attributes))

    for node in model.graph.node:
        layer = by_name.get(node.name)
        if layer is None:
            copy.graph.node.add().CopyFrom(node)
            continue
        codes, scale = _on_grid(layer, numpy_helper.to_array(weights[layer.weight]))
        weights[layer.weight].CopyFrom(numpy_helper.from_array(codes, layer.weight))
        grid = [own(f"{layer.weight}.{part}") for part in ("scale", "zero")]
        for name, array in zip(grid, (scale, np.zeros(scale.shape, np.int8)), strict=True):
            copy.graph.initializer.append(numpy_helper.from_array(array, name))
        if layer.input not in rounded:
            parts = [own(f"{layer.input}.{part}") for part in ("codes", "scale", "zero")]
            rounded[layer.input] = own(f"{layer.input}.rounded")
            add("DynamicQuantizeLinear", [layer.input], parts)
            add("DequantizeLinear", parts, [rounded[layer.input]])
        values = own(f"{layer.weight}.values")
        add("DequantizeLinear", [layer.weight, *grid], [values], axis=1 if layer.turned else 0)
        made = copy.graph.node.add()
        made.CopyFrom(node)
        made.input[0], made.input[1] = rounded[layer.input], values
    return copy


def _on_grid(layer: Layer, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the weights' shape, int8, and scales [output channels]; a channel so small that its scale would be no
    normal number, which LiteRT refuses, is zero."""
    import numpy as np

    matrix = layer.matrix(weights)[0].astype(np.float64)
    most = np.abs(matrix).max(axis=1, initial=0.0) / _LARGEST
    scale = np.where(most >= np.finfo(np.float32).tiny, most, 1.0).astype(np.float32)
    codes = np.clip(np.rint(matrix / scale[:, None]), -_LARGEST, _LARGEST).astype(np.int8)
    return np.ascontiguousarray(layer.tensor(codes[None])), scale
