"""One small ONNX model for each precision that a GPU may have, typed as TensorRT's strong typing wants it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = 256
BLOCK = 128


def product(kind: int) -> onnx.ModelProto:
    """x · w in one type; inputs and outputs are of that type too."""
    weight = helper.make_tensor("w", kind, [SIZE, SIZE], _values().flatten())
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [weight], kind)


def convolution() -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((16, 16, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="convolution", pads=[1, 1, 1, 1])
    return _model([node], [weight], TensorProto.FLOAT, [1, 16, 32, 32])


def quantized(kind: int) -> onnx.ModelProto:
    """Activation and weight quantized to `kind` with one scale each, the rest in half precision."""
    initializers = [
        numpy_helper.from_array(np.array(0.05, np.float16), "scale"),
        helper.make_tensor("zero", kind, [], [0]),
        helper.make_tensor("w", kind, [SIZE, SIZE], np.round(_values()).flatten()),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], name="product"),
    ]
    return _model(nodes, initializers, TensorProto.FLOAT16)


def blocked(kind: int, block: int) -> onnx.ModelProto:
    """Weights of few bits in blocks along K with a scale each, arithmetic in half precision."""
    initializers = [
        numpy_helper.from_array(np.full((SIZE // block, SIZE), 0.1, np.float16), "scale"),
        helper.make_tensor("w", kind, [SIZE, SIZE], np.round(_values()).flatten()),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["wd"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "wd"], ["y"], name="product"),
    ]
    return _model(nodes, initializers, TensorProto.FLOAT16)


# By the names that targets use. fp32 is a convolution: Turing has no fp32 matrix products in TensorRT for RTX.
PRECISIONS: dict[str, Callable[[], onnx.ModelProto]] = {
    "fp32": convolution,
    "fp16": lambda: product(TensorProto.FLOAT16),
    "bf16": lambda: product(TensorProto.BFLOAT16),
    "int8": lambda: quantized(TensorProto.INT8),
    "fp8": lambda: quantized(TensorProto.FLOAT8E4M3FN),
    "int4": lambda: blocked(TensorProto.INT4, BLOCK),
    "fp4": lambda: blocked(TensorProto.FLOAT4E2M1, 16),
}


def _values() -> np.ndarray:
    return np.random.default_rng(0).uniform(-6, 6, (SIZE, SIZE)).astype(np.float32)


def _model(
    nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto], kind: int, shape: list[int] | None = None
) -> onnx.ModelProto:
    shape = shape or [4, SIZE]
    graph = helper.make_graph(
        nodes,
        "typed",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
