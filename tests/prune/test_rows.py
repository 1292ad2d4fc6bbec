"""Rows times the matrix of weights are what the runtime computes, for every way to place a kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mlopt.prune.matrices import matrix
from mlopt.prune.rows import picked, read_rows, tensors, written_rows

CONVOLUTIONS = {
    "plain": ((4, 6, 3, 3), (2, 6, 9, 8), {}),
    "padded": ((4, 6, 3, 3), (2, 6, 9, 8), {"pads": [1, 0, 2, 1]}),
    "strided": ((4, 6, 3, 2), (1, 6, 9, 8), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilated": ((4, 6, 3, 3), (1, 6, 9, 8), {"dilations": [2, 3]}),
    "grouped": ((4, 3, 3, 3), (2, 6, 9, 8), {"group": 2, "pads": [1, 1, 1, 1]}),
    "same upper": ((4, 6, 3, 2), (1, 6, 9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "same lower": ((4, 6, 2, 4), (1, 6, 9, 8), {"auto_pad": "SAME_LOWER", "strides": [1, 2]}),
    "valid": ((4, 6, 2, 4), (1, 6, 9, 8), {"auto_pad": "VALID"}),
    "one axis": ((4, 6, 3), (2, 6, 11), {"pads": [2, 0], "dilations": [2]}),
    "three axes": ((4, 6, 2, 3, 1), (1, 6, 4, 5, 3), {"strides": [1, 2, 1]}),
}


def model_of(node: onnx.NodeProto, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "net",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(values, name) for name, values in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def check(node: onnx.NodeProto, arrays: dict[str, np.ndarray], x: np.ndarray, folder: Path, groups: int = 1) -> None:
    with tensors(model_of(node, arrays, x.shape), ["y"], folder) as run:
        written = run({"x": x})["y"]
    shape = arrays["w"].shape
    where = picked(node, shape, x, most=7, seed=3)
    assert len(where) == min(7, written.size // written.shape[1 if node.op_type == "Conv" else -1])
    parts = []
    for number in range(groups):
        rows = read_rows(node, shape, x, number, where)
        parts.append(np.concatenate([rows, np.ones((len(rows), 1))], axis=1) @ matrix(node, arrays, number))
    wanted = written_rows(node, written, where)
    assert np.allclose(np.concatenate(parts, axis=1), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions(kind: str, tmp_path: Path) -> None:
    weight, data, attributes = CONVOLUTIONS[kind]
    random = np.random.default_rng(0)
    arrays = {"w": random.standard_normal(weight), "b": random.standard_normal(weight[0])}
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="conv", **attributes)
    plain = {name: values.astype(np.float32) for name, values in arrays.items()}
    check(node, plain, random.standard_normal(data).astype(np.float32), tmp_path, attributes.get("group", 1))


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("op", ["Gemm", "MatMul"])
def test_products(op: str, turned: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gemm = op == "Gemm"
    w = random.standard_normal((4, 6) if gemm and turned else (6, 4)).astype(np.float32)
    arrays = {"w": w, "b": random.standard_normal(4).astype(np.float32)} if gemm else {"w": w}
    node = helper.make_node(op, ["x", *arrays], ["y"], name="product", **({"transB": turned} if gemm else {}))
    x = random.standard_normal((5, 6) if gemm else (2, 5, 6)).astype(np.float32)
    check(node, arrays, x, tmp_path)


def test_the_same_places_are_picked_in_the_whole_and_in_the_cut_model() -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    wide, narrow = np.zeros((1, 6, 9, 8), np.float32), np.zeros((1, 2, 9, 8), np.float32)
    first = picked(node, (4, 6, 3, 3), wide, most=10, seed=1)
    assert first.tolist() == picked(node, (4, 2, 3, 3), narrow, most=10, seed=1).tolist()
    assert first.tolist() != picked(node, (4, 6, 3, 3), wide, most=10, seed=2).tolist()
