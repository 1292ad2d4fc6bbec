"""Neighbours among int8 weights: what x86 processors without VNNI add up in 16 bits, and which sums do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.onnx_file import attributes_of

if TYPE_CHECKING:
    import numpy as np

    from mlopt.repair.layers import Layer

# 255 * 128 + 255 * 0 is the most that fits into a signed 16-bit integer beside its like: 32640 of 32767.
MOST: Final = 128
_PRODUCTS: Final = {"Conv": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "ConvInteger": 1,
                    "QLinearConv": 3, "QLinearMatMul": 3}  # fmt: skip


def alone(operator: str, shape: tuple[int, ...], groups: int) -> bool:
    """Whether the kernel multiplies one channel by itself: it widens to 32 bits first, and no pair is ever added."""
    return "Conv" in operator and shape[1] == 1 and shape[0] == groups


def heaviest(layer: Layer, weights: np.ndarray) -> np.ndarray:
    """Of every row of a layer ([groups, rows]) the largest sum of two neighbouring weights of one sign, as a magnitude.

    `vpmaddubsw` multiplies bytes and adds each product to its neighbour's in 16 bits. Neighbours are what kernels lay
    side by side: channels of one position of the kernel (alone, or running on into the next position), or positions
    of one channel. All are looked at, since a file does not know its kernels. `weights` is the layer's tensor.
    """
    import numpy as np

    rows = weights.T if layer.turned else weights
    found = np.maximum.reduce([_heaviest(one) for one in _orders(rows)])
    result: np.ndarray = found.reshape(layer.groups, -1)
    return result


def _orders(rows: np.ndarray) -> Iterator[np.ndarray]:
    """The ways to lay out each row's weights; `rows` is [rows, channels, …positions]."""
    import numpy as np

    yield rows.reshape(len(rows), -1)
    if rows.ndim > 2:
        last = np.moveaxis(rows, 1, -1)
        yield last.reshape(len(rows), -1)
        if last.shape[-1] % 2:
            even = np.pad(last, [(0, 0)] * (last.ndim - 1) + [(0, 1)])
            yield even.reshape(len(rows), -1)


def _heaviest(rows: np.ndarray) -> np.ndarray:
    import numpy as np

    if rows.shape[1] % 2:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    pairs = rows.reshape(len(rows), -1, 2)
    sums = [np.maximum(sign * pairs, 0).sum(axis=2).max(axis=1, initial=0) for sign in (1, -1)]
    result: np.ndarray = np.maximum(*sums)
    return result


def overflowing(graph: Any, folder: Path | None = None) -> tuple[str, ...]:
    """The nodes of a quantized graph (an onnx.GraphProto) whose sums of two products may pass 16 bits, in its order.
    `folder` is where weights lie that the graph does not hold itself.

    Whether they do hangs on the inputs; that they cannot, holds for every input. Unsigned weights are multiplied by
    other instructions, and pass.
    """
    from onnx import TensorProto, numpy_helper

    from mlopt.repair.layers import Layer

    codes = {t.name: t for t in graph.initializer if t.data_type == TensorProto.INT8}
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    found = []
    for node in graph.node:
        place = _PRODUCTS.get(node.op_type, len(node.input))
        name = node.input[place] if place < len(node.input) else ""
        tensor = codes.get(stored.get(name, name))
        if tensor is None:
            continue
        said, shape = attributes_of(node), tuple(tensor.dims)
        groups = int(said.get("group", 1))
        if alone(node.op_type, shape, groups) or len(shape) < 2:
            continue
        turned = "Conv" not in node.op_type and not said.get("transB")
        layer = Layer(node.name, "", "", name, "", node.op_type, groups, turned, shape, (), (), ())
        values = numpy_helper.to_array(tensor, str(folder or "")).astype("int32")
        matrices = values.reshape(-1, *shape[-2:]) if turned else values[None]
        if max(int(heaviest(layer, one).max()) for one in matrices) > MOST:
            found.append(node.name or node.output[0])
    return tuple(found)


def stretched(layer: Layer, weights: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """`scale` ([groups, rows]), larger where two neighbours of `weights` rounded to the nearest step might not fit."""
    import numpy as np

    if alone(layer.operator, layer.shape, layer.groups):
        return scale
    result: np.ndarray = scale * np.maximum(1.0, heaviest(layer, weights / _along(layer, scale)) / (MOST - 1))
    return result


def _along(layer: Layer, scale: np.ndarray) -> np.ndarray:
    flat: np.ndarray = scale.reshape(-1)
    return flat[None] if layer.turned else flat.reshape(-1, *[1] * (len(layer.shape) - 1))


def scales(layer: Layer, weights: np.ndarray, *, shared: bool) -> np.ndarray:
    """The smallest scales ([groups, rows]) that hold the weights in eight bits and all neighbours in sixteen.

    `shared`: one for all rows.
    """
    import numpy as np

    top = np.abs(layer.matrix(weights)).max(axis=2).astype(np.float64)
    if shared:
        top = np.full_like(top, top.max())
    scale = stretched(layer, weights.astype(np.float64), np.where(top > 0, top, 127.0) / 127)
    return np.full_like(scale, scale.max()) if shared else scale
