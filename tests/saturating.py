"""A model whose sums of products pass 16 bits, and the same one within them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def full(path: Path, heaviest: int, *, depthwise: bool = False) -> Path:
    """A quantized product (or depthwise convolution) with all weights at plus or minus `heaviest`, inputs at 255."""
    shape = (16, 1, 3, 3) if depthwise else (16, 64)
    codes = np.full(shape, heaviest, np.int8)
    codes[::2] = -heaviest
    constants = {"one": np.float32(0.01), "whole": np.float32(1), "zero": np.uint8(0), "none": np.int8(0), "w": codes}
    given, made = (["n", 16, 5, 5], ["n", 16, 3, 3]) if depthwise else (["n", 64], ["n", 16])
    product = (
        helper.make_node("Conv", ["a", "b"], ["c"], name="product", group=16)
        if depthwise
        else helper.make_node("Gemm", ["a", "b"], ["c"], name="product", transB=1)
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "one", "none"], ["b"]),
        product,
        helper.make_node("QuantizeLinear", ["c", "whole", "zero"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "whole", "zero"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "full",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
