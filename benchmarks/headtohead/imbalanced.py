"""The same function with channels of very different size: what a depthwise net may look like to a quantiser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np
    import onnx

_SEED: Final = 0
_POWERS: Final = 4.0


def imbalance(source: Path, into: Path) -> int:
    """Scale each channel between two convolutions (a ReLU between them lets factors through) by 2^U(-4, 4), and undo
    it in the second; returns between how many convolutions. Raises `ValueError` when there are none."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    weights = {one.name: one for one in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    draw = np.random.default_rng(_SEED)
    pairs = 0
    for first in model.graph.node:
        second = _behind_relu(first, readers)
        if second is None:
            continue
        before = numpy_helper.to_array(weights[first.input[1]])
        factors = (2.0 ** draw.uniform(-_POWERS, _POWERS, before.shape[0])).astype(np.float32)
        _replace(weights[first.input[1]], before * factors.reshape(-1, 1, 1, 1))
        if len(first.input) > 2:
            _replace(weights[first.input[2]], numpy_helper.to_array(weights[first.input[2]]) * factors)
        after = numpy_helper.to_array(weights[second.input[1]])
        depthwise = after.shape[1] == 1
        _replace(weights[second.input[1]], after / factors.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1)))
        pairs += 1
    if not pairs:
        raise ValueError("no convolution follows another through a ReLU")
    onnx.save(model, into)
    return pairs


def _behind_relu(first: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """The convolution that alone reads what `first`, a convolution, gives through a ReLU."""
    node: onnx.NodeProto | None = first if first.op_type == "Conv" else None
    for wanted in ("Relu", "Conv"):
        reading = readers.get(node.output[0], []) if node else []
        node = reading[0] if len(reading) == 1 and reading[0].op_type == wanted else None
    return node


def _replace(tensor: onnx.TensorProto, values: np.ndarray) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(values.astype("float32"), tensor.name))
