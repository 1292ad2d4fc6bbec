"""What a DLA takes: layers, and the sizes that NVIDIA documents of them."""

from __future__ import annotations

from typing import Any

import nets
import onnx
import pytest
from onnx import TensorProto, helper

from mlopt.preflight.dla import on_dla


def said(op: str, shape: list[int], weight: tuple[int, ...] = (), **attributes: Any) -> str:
    """Of a graph of that one node."""
    inputs = ["x", "w"] if weight else ["x"]
    node = helper.make_node(op, inputs, ["y"], name="it", **attributes)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [x], [y], [nets.weights("w", *weight)] if weight else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return on_dla(onnx.shape_inference.infer_shapes(model))


PICTURE = [1, 8, 64, 64]


@pytest.mark.parametrize(
    ("op", "weight", "attributes"),
    [
        ("Conv", (8, 8, 32, 32), {"strides": [8, 8]}),
        ("Conv", (8, 1, 3, 3), {"group": 8, "pads": [2, 2, 2, 2], "dilations": [2, 2]}),
        ("MaxPool", (), {"kernel_shape": [8, 8], "strides": [16, 16]}),
        ("ConvTranspose", (8, 8, 2, 2), {"strides": [2, 2]}),
        ("LRN", (), {"size": 5}),
    ],
)
def test_what_is_at_its_limits_is_taken(op: str, weight: tuple[int, ...], attributes: dict[str, Any]) -> None:
    assert (
        said(op, PICTURE, weight, **attributes) == "DLA: by its lists and sizes 1 of 1 nodes, in fp16 at fixed shapes"
    )


@pytest.mark.parametrize(
    ("op", "weight", "attributes", "reason"),
    [
        ("Conv", (8, 8, 33, 3), {}, "kernel 33×3, at most 32"),
        ("Conv", (8, 8, 3, 3), {"strides": [9, 1]}, "stride 9×1, at most 8"),
        ("Conv", (8, 8, 1, 1), {"dilations": [33, 33]}, "dilation 33×33, at most 32"),
        ("Conv", (8, 8, 3, 3), {"pads": [3, 0, 0, 0]}, "padding 3×0×0×0, which is to be less than the kernel 3×3"),
        ("ConvTranspose", (8, 8, 4, 4), {"pads": [1, 1, 1, 1]}, "padding 1×1×1×1, at most 0"),
        ("ConvTranspose", (8, 1, 2, 2), {"group": 8}, "8 groups, and a DLA's has one"),
        ("MaxPool", (), {"kernel_shape": [9, 9]}, "window 9×9, at most 8"),
        ("GlobalAveragePool", (), {}, "window 64×64, at most 8"),
        ("LRN", (), {"size": 4}, "window 4, one of 3, 5, 7, 9"),
        ("Erf", (), {}, "no layer of a DLA"),
    ],
)
def test_what_is_beyond_them_falls_back_with_the_reason(
    op: str, weight: tuple[int, ...], attributes: dict[str, Any], reason: str
) -> None:
    assert said(op, PICTURE, weight, **attributes).endswith(f"back to the GPU: {op} it ({reason})")


def test_convolutions_of_one_dimension_and_large_tensors_fall_back() -> None:
    assert "(1-dimensional, and a DLA's is 2)" in said("Conv", [1, 8, 64], (8, 8, 3))
    assert "(a dimension of 9000, at most 8192)" in said("Relu", [1, 8, 9000, 4])
    assert "(batch 5000, at most 4096)" in said("Relu", [5000, 8, 4, 4])


def test_a_concatenation_is_one_of_channels() -> None:
    assert "(axis 2, and a DLA's is 1)" in said("Concat", PICTURE, axis=2)
    assert "(axis 3, and a DLA's is 1)" in said("Concat", PICTURE, axis=-1)
    assert "1 of 1 nodes" in said("Concat", PICTURE, axis=1)
    assert "1 of 1 nodes" in said("Concat", PICTURE, axis=-3)
