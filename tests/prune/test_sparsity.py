"""Zeros in weights: counted, their pattern seen along the right axis, and nothing promised for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, save
from onnx import helper, numpy_helper
from walks import mlopt

from mlopt.prune.sparsity import sparsity_of, used_by


def product(op: str, weight: np.ndarray, **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", "w"], ["y"], name="product", **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "g",
        [info("x", 1, None)],
        [info("y", 1, None)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph)


def pattern(rows: int, columns: int) -> np.ndarray:
    """Two of four along the last axis are zero, at places of their own in each row."""
    found = np.ones((rows, columns))
    random = np.random.default_rng(0)
    for row in found:
        for start in range(0, columns, 4):
            row[start + random.permutation(4)[:2]] = 0
    return found


def test_zeros_are_counted() -> None:
    weight = np.ones((8, 4, 3, 3))
    weight[:2] = 0
    found = sparsity_of(product("Conv", weight))
    assert (found.weights, found.zeros, found.products, found.of_four) == (288, 72, 1, 0)
    assert str(found) == "25.0% of the weights are zero, two of four in 0 of 1 products"


@pytest.mark.parametrize(
    ("op", "weight", "attributes", "seen"),
    [
        ("MatMul", pattern(6, 8).T, {}, 1),  # inputs are rows there
        ("MatMul", pattern(8, 8), {}, 0),
        ("Gemm", pattern(6, 8), {"transB": 1}, 1),
        ("Gemm", pattern(6, 8).T, {}, 1),
        ("Conv", np.moveaxis(pattern(5 * 9, 8).reshape(5, 3, 3, 8), -1, 1), {}, 1),
        ("Conv", pattern(64, 4).reshape(8, 8, 1, 4), {}, 0),  # along the kernel is no use
        ("MatMul", np.zeros((6, 3)), {}, 0),  # six inputs are no fours
        ("MatMul", np.zeros((8, 3)), {}, 1),
    ],
)
def test_the_pattern_counts_along_the_inputs(
    op: str, weight: np.ndarray, attributes: dict[str, object], seen: int
) -> None:
    assert sparsity_of(product(op, weight, **attributes)).of_four == seen


def test_nothing_is_promised() -> None:
    assert used_by(tensor_cores=False, engine=False).endswith(
        "no model is faster for them there; only a packed file is smaller"
    )
    ampere = used_by(tensor_cores=True, engine=True)
    assert "from compute capability 8.0 on" in ampere
    assert ampere.endswith("no engine that mlopt builds here was seen to use it")


def test_inspect_tells_of_many_zeros_and_says_nothing_of_few(tmp_path: Path) -> None:
    model = conv_net()
    save(model, tmp_path / "dense.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 4:
            values[np.abs(values) < np.quantile(np.abs(values), 0.75)] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    save(model, tmp_path / "sparse.onnx")
    dense, sparse = (
        json.loads(mlopt("inspect", f"{name}.onnx", "--json", cwd=tmp_path).stdout) for name in ("dense", "sparse")
    )
    assert "zeros" not in dense
    assert "no model is faster for them" in sparse["zeros"]
