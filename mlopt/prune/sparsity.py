"""Weights that are zero, and which kernels would skip them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.nodes import attribute
from mlopt.signature import walk

if TYPE_CHECKING:
    import numpy as np

# Below this a zero is chance, or what a layer without a role learnt.
WORTH_SAYING: Final = 0.2
_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Of the weights of convolutions and matrix products: how many there are, how many are zero, and of how many
    products each four weights in a row along the inputs hold two zeros at least (2:4)."""

    weights: int
    zeros: int
    products: int
    of_four: int

    @property
    def share(self) -> float:
        return self.zeros / self.weights if self.weights else 0.0

    def __str__(self) -> str:
        return f"{self.share:.1%} of the weights are zero, two of four in {self.of_four} of {self.products} products"


def sparsity_of(model: Any) -> Sparsity:
    """Of an onnx.ModelProto, sub-graphs too: weights that are initializers of the graph and lie in its file, also those
    that are dequantized with zero-points of 0 before they are multiplied."""
    import numpy as np
    import onnx

    outside = onnx.TensorProto.EXTERNAL
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_location != outside}
    for node in walk(model.graph):
        if node.op_type == "DequantizeLinear" and node.input[0] in weights and _symmetric(node, weights):
            weights[node.output[0]] = weights[node.input[0]]
    count = zeros = products = of_four = 0
    for node in walk(model.graph):
        tensor = weights.get(node.input[1]) if node.op_type in _PRODUCTS and len(node.input) > 1 else None
        if tensor is None or len(tensor.dims) < 2 or 0 in tensor.dims:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        empty = np.asarray(values == 0)
        count, zeros, products = count + empty.size, zeros + int(empty.sum()), products + 1
        of_four += _two_of_four(_by_inputs(node, empty))
    return Sparsity(count, zeros, products, of_four)


def used_by(*, tensor_cores: bool, engine: bool) -> str:
    """Which kernels skip zeros on a target: `tensor_cores` are those that know 2:4, `engine` whether mlopt makes
    something for them."""
    cpu = (
        "ONNX Runtime and OpenVINO multiply zeros like any other number on a CPU, so no model is faster for them there"
    )
    if not tensor_cores:
        return f"{cpu}; only a packed file is smaller"
    more = "; no engine that mlopt builds here was seen to use it" if engine else ""
    return (
        f"{cpu}; the target's tensor cores can skip two of four in TensorRT (2:4, from compute capability 8.0 on){more}"
    )


def _symmetric(node: Any, constants: Mapping[str, Any]) -> bool:
    from onnx import numpy_helper

    zero = node.input[2] if len(node.input) > 2 else ""
    return not zero or (zero in constants and not numpy_helper.to_array(constants[zero]).any())


def _by_inputs(node: Any, empty: np.ndarray) -> np.ndarray:
    """Rows along the inputs that a product adds up: the channels of a convolution, at each place of its kernel."""
    import numpy as np

    if node.op_type == "Conv":
        empty = np.moveaxis(empty, 1, -1)
    elif node.op_type == "MatMul" or not attribute(node, "transB", 0):
        empty = np.swapaxes(empty, -1, -2)
    return empty.reshape(-1, empty.shape[-1])


def _two_of_four(rows: np.ndarray) -> bool:
    if rows.shape[1] % 4:
        return False
    return bool((rows.reshape(len(rows), -1, 4).sum(axis=2) >= 2).all())
