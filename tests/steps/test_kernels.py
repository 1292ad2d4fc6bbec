"""The list of operators that get quantized is what ONNX Runtime really computes, or hands on, as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from trials import operators_that_run

from mlopt.steps.histogram import Range
from mlopt.steps.qdq import KERNELS, Qdq

# What each takes beside its first input, and its attributes; the first input is [1, 8, 8, 8].
WEIGHT = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / 5
CASES: dict[str, tuple[list[np.ndarray], dict[str, object]]] = {
    "Add": ([np.float32([0.5])], {}),
    "AveragePool": ([], {"kernel_shape": [2, 2]}),
    "Clip": ([np.float32(0), np.float32(6)], {}),
    "Concat": ([np.ones((1, 8, 8, 8), np.float32)], {"axis": 1}),
    "Conv": ([WEIGHT], {}),
    "DepthToSpace": ([], {"blocksize": 2}),
    "Flatten": ([], {}),
    "Gather": ([np.array([1, 2])], {"axis": 1}),
    "Gemm": ([WEIGHT[:, :, 0, 0]], {}),
    "GlobalAveragePool": ([], {}),
    "LeakyRelu": ([], {"alpha": 0.1}),
    "MatMul": ([WEIGHT[:, :, 0, 0]], {}),
    "MaxPool": ([], {"kernel_shape": [2, 2]}),
    "Mul": ([np.float32([0.5])], {}),
    "Relu": ([], {}),
    "Reshape": ([np.array([0, -1])], {}),
    "Resize": ([np.float32([]), np.float32([1, 1, 2, 2])], {"mode": "nearest"}),
    "Sigmoid": ([], {}),
    "Slice": ([np.array([1]), np.array([5]), np.array([1])], {}),
    "Split": ([np.array([4, 4])], {"axis": 1}),
    "Squeeze": ([np.array([0])], {}),
    "Transpose": ([], {"perm": [0, 2, 3, 1]}),
    "Unsqueeze": ([np.array([1])], {}),
}


@pytest.mark.parametrize("operator", sorted(KERNELS))
def test_runs_on_integers(tmp_path: Path, operator: str) -> None:
    ran = _ran(tmp_path, operator, *CASES[operator])
    middle = ran[ran.index("first") + 1 : ran.index("last")]
    assert "QuantizeLinear" not in middle, f"{operator} runs in float32 between two conversions"
    assert "DequantizeLinear" not in middle


def test_what_is_not_in_the_list_would_not(tmp_path: Path) -> None:
    for operator, more in (("Tanh", []), ("ConvTranspose", [WEIGHT])):
        ran = _ran(tmp_path, operator, more, {})
        assert "DequantizeLinear" in ran[ran.index("first") + 1 : ran.index("last")]


def _ran(folder: Path, operator: str, more: list[np.ndarray], attributes: dict[str, object]) -> list[str]:
    """What runs of a convolution, the operator and a LeakyRelu, all quantized; those two as `first` and `last`."""
    constants = {f"c{number}": np.asarray(value) for number, value in enumerate(more)}
    flat = operator == "Gemm"  # it alone takes two dimensions
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["conv"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["conv", "flat"], ["pixels"], name="flatten"),
        helper.make_node(
            operator,
            ["pixels" if flat else "conv", *constants],
            ["b", "b2"] if operator == "Split" else ["b"],
            name="middle",
            **attributes,
        ),
        helper.make_node("LeakyRelu", ["b"], ["y"], name="last", alpha=0.3),
    ]
    if not flat:
        del nodes[1]
    constants |= {"w": WEIGHT, "flat": np.array([-1, 8])}
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    qdq = Qdq("u8s8", per_channel=True, op_types=(operator, "Conv", "LeakyRelu"))
    ranges = {name: Range(-2.0, 2.0) for name in qdq.activations(inferred.graph)}
    qdq.write(inferred, ranges, folder / "one.onnx")
    kinds = operators_that_run(folder / "one.onnx", folder / "ran.onnx")
    first, last = kinds.index("QLinearConv"), len(kinds) - 1 - kinds[::-1].index("QLinearLeakyRelu")
    return [*kinds[:first], "first", *kinds[first + 1 : last], "last"]
