"""Layers as matrices: weights times patches is what the operator computes, whatever its attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import conv_net, weights
from onnx import TensorProto, helper

from mlopt.repair.layers import layers_of


def one_node(
    operator: str, shape: tuple[int, ...], weight: tuple[int, ...], out: int, **attributes: Any
) -> onnx.ModelProto:
    inputs = ["x", "w"] if operator == "MatMul" else ["x", "w", "b"]
    node = helper.make_node(operator, inputs, ["y"], name="layer", **attributes)
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights("w", *weight), weights("b", out)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("operator", "shape", "weight", "out", "attributes"),
    [
        ("Conv", (2, 4, 9, 8), (6, 4, 3, 3), 6, {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ("Conv", (2, 4, 9, 8), (8, 1, 3, 3), 8, {"group": 4, "pads": [1, 1, 1, 1]}),
        ("Conv", (1, 4, 9, 9), (6, 2, 3, 3), 6, {"group": 2, "dilations": [2, 2]}),
        ("Conv", (1, 3, 9, 8), (5, 3, 3, 3), 5, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ("Conv", (1, 3, 9, 8), (5, 3, 2, 3), 5, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("Conv", (2, 3, 20), (5, 3, 5), 5, {"auto_pad": "VALID"}),
        ("Gemm", (3, 7), (7, 5), 5, {}),
        ("Gemm", (3, 7), (5, 7), 5, {"transB": 1}),
        ("MatMul", (2, 3, 7), (7, 5), 5, {}),
    ],
)
def test_a_layer_is_a_product_of_its_weights_and_patches(
    operator: str, shape: tuple[int, ...], weight: tuple[int, ...], out: int, attributes: dict[str, Any]
) -> None:
    model = one_node(operator, shape, weight, out, **attributes)
    (layer,) = layers_of(model.graph)
    w, b = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert layer.channels_out == out
    assert layer.channels_in == (shape[1] if operator == "Conv" else shape[-1])
    matrix = layer.matrix(w)
    assert np.array_equal(layer.tensor(matrix), w)
    patches = layer.patches(x)
    assert patches.shape[1] == layer.positions(shape)
    made = np.einsum("grc,gpc->pgr", matrix, patches).reshape(-1, out)
    rows = np.moveaxis(y, 1, -1).reshape(-1, out) if operator == "Conv" else y.reshape(-1, out)
    assert np.allclose(made + (b if layer.bias else 0), rows, atol=1e-4)
    some = np.array([0, 2])
    assert np.array_equal(layer.patches(x, some), patches[:, some])


def test_weights_that_two_nodes_read_or_a_caller_may_replace_are_no_layer() -> None:
    model = conv_net()
    assert [layer.name for layer in layers_of(model.graph)] == ["conv1", "conv2", "head"]
    model.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [16, 3, 3, 3]))
    model.graph.node.append(helper.make_node("Identity", ["w2"], ["copy"], name="copy"))
    assert [layer.name for layer in layers_of(model.graph)] == ["head"]
