"""Rewrites before quantizing: the same answers, from operators that have int8 kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import branching_net, gated_net, weights
from onnx import TensorProto, helper, numpy_helper
from trials import answers, source

from mlopt.precision.rewrites import gemm_to_matmul, pool_means


def test_means_over_the_picture_become_poolings(tmp_path: Path) -> None:
    model = gated_net()
    rewritten = onnx.shape_inference.infer_shapes(model)
    assert pool_means(rewritten.graph)
    onnx.checker.check_model(rewritten, full_check=True)
    kinds = [node.op_type for node in rewritten.graph.node]
    assert kinds.count("GlobalAveragePool") == 2
    assert "ReduceMean" not in kinds
    feed = {"image": np.random.default_rng(1).standard_normal((3, 3, 16, 16)).astype(np.float32)}
    before, after = (answers(source(tmp_path / name, one), feed) for name, one in (("a", model), ("b", rewritten)))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3], []])
def test_other_means_stay(axes: list[int]) -> None:
    model = _mean(axes, ["N", 4, 8, 8])
    assert not pool_means(model.graph)
    assert [node.op_type for node in model.graph.node] == ["ReduceMean"]


def test_means_of_other_ranks_and_of_unknown_axes_stay() -> None:
    assert not pool_means(_mean([2, 3], ["N", 4, 8, 8, 2]).graph)
    unknown = _mean([2, 3], ["N", 4, 8, 8])
    del unknown.graph.initializer[:]
    unknown.graph.input.append(helper.make_tensor_value_info("axes", TensorProto.INT64, [2]))
    assert not pool_means(unknown.graph)


def _mean(axes: list[int], shape: list[str | int]) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["x", "axes"], ["y"], name="mean")],
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(axes, np.int64), "axes")],
    )
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_what_only_a_branch_or_the_caller_reads_stays(tmp_path: Path) -> None:
    model = branching_net()
    feed = {"x": np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32)}
    before = answers(source(tmp_path / "a", model), feed)
    gemm_to_matmul(model.graph)
    assert "Gemm" not in {node.op_type for node in model.graph.node}
    held = {tensor.name for tensor in model.graph.initializer}
    assert held == {"w1", "w2_turned_as_matmul", "b2", "up", "down", "told", "zero"}
    np.testing.assert_allclose(answers(source(tmp_path / "b", model), feed), before, rtol=1e-5, atol=1e-5)


def test_one_weight_read_both_ways_is_kept_both_ways(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"], name="encode", transB=1),
        helper.make_node("Gemm", ["h", "w"], ["y"], name="decode"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "tied", values[:1], values[1:], [weights("w", 8, 8)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    feed = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}
    before = answers(source(tmp_path / "a", model), feed)
    gemm_to_matmul(model.graph)
    np.testing.assert_allclose(answers(source(tmp_path / "b", model), feed), before, rtol=1e-5, atol=1e-5)
