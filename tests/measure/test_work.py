"""Operations and bytes of a graph, against what a person counts by hand."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.measure.work import Graph


def graph_of(model: onnx.ModelProto, tmp_path: Path, **sizes: tuple[int, ...]) -> Graph:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return Graph.read(path, sizes)


def one_node(node: onnx.NodeProto, x: list[int], y: list[int], **weights: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_net_counted_by_hand(tmp_path: Path) -> None:
    graph = graph_of(nets.conv_net(), tmp_path, image=(1, 3, 32, 32))
    counted = {graph.label(number): graph.operations(number) for number in range(len(graph.nodes))}
    places = 16 * 16 * 16  # channels × height × width after the stride of 2
    assert counted == {
        "conv1": 2 * places * 3 * 3 * 3 + places,
        "relu1": places,
        "conv2": 2 * places * 16 * 3 * 3 + places,
        "relu2": places,
        "pool": places,
        "flatten": 0,
        "head": 2 * 10 * 16 + 10,
    }


def test_the_batch_multiplies_work_but_not_weights(tmp_path: Path) -> None:
    once = graph_of(nets.conv_net(), tmp_path, image=(1, 3, 32, 32))
    eight = graph_of(nets.conv_net(), tmp_path, image=(8, 3, 32, 32))
    assert eight.operations(0) == 8 * (once.operations(0) or 0)
    weights = 4 * (16 * 3 * 9 + 16)
    moved = 4 * (3 * 32 * 32 + 16 * 16 * 16)
    assert once.bytes([0], ()) == weights + moved
    assert eight.bytes([0], ()) == weights + 8 * moved


def test_what_stays_inside_a_fused_layer_is_not_moved(tmp_path: Path) -> None:
    graph = graph_of(nets.conv_net(), tmp_path, image=(1, 3, 32, 32))
    assert graph.bytes([0, 1], ()) == graph.bytes([0], ())


@pytest.mark.parametrize(
    ("node", "x", "y", "weights", "operations"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=4), [1, 4, 6, 6], [1, 4, 4, 4], (4, 1, 3, 3), 2 * 64 * 9),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), [1, 2, 4, 4], [1, 5, 6, 6], (2, 5, 3, 3), 2 * 32 * 45),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), [7, 3, 64], [7, 3, 10], (64, 10), 2 * 7 * 3 * 10 * 64),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), [64, 3], [3, 10], (64, 10), 2 * 3 * 10 * 64),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3]), [1, 2, 6, 6], [1, 2, 4, 4], (1,), 2 * 16 * 9),
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[1]), [2, 50], [2, 1], (1,), 100),
        (helper.make_node("Softmax", ["x"], ["y"]), [2, 50], [2, 50], (1,), 500),
        (helper.make_node("LSTM", ["x", "w", "w"], ["y"], hidden_size=8), [5, 1, 3], [5, 1, 1, 8], (1, 32, 3), None),
    ],
)
def test_operations_by_hand(
    node: onnx.NodeProto, x: list[int], y: list[int], weights: tuple[int, ...], operations: int | None, tmp_path: Path
) -> None:
    model = one_node(node, x, y, w=np.ones(weights, np.float32))
    graph = graph_of(model, tmp_path, x=tuple(x))
    if node.op_type == "LSTM":  # five steps of four gates of 3 inputs and 8 states
        operations = 2 * 5 * 1 * 4 * 8 * (3 + 8)
    assert graph.operations(0) == operations


def test_an_operator_that_nobody_knows_has_no_count(tmp_path: Path) -> None:
    node = helper.make_node("Mystery", ["x"], ["y"], domain="acme")
    graph = graph_of(one_node(node, [4], [4]), tmp_path, x=(4,))
    assert graph.operations(0) is None


def test_a_gather_reads_what_it_picks(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["w", "i"], ["y"])
    model = one_node(node, [1], [2, 16], w=np.ones((5000, 16), np.float32), i=np.array([1, 2], np.int64))
    assert graph_of(model, tmp_path).bytes([0], ()) == 4 * 2 * 16 * 2 + 8 * 2


def test_int8_that_was_fused_moves_bytes_and_not_floats(tmp_path: Path) -> None:
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(0), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
        helper.make_node("Relu", ["xd"], ["r"], name="relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], name="rq"),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"], name="end"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [100]) for name in ("x", "y")]
    built = helper.make_graph(nodes, "qdq", ends[:1], ends[1:], [scale, zero])
    graph = graph_of(helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)]), tmp_path, x=(100,))
    assert graph.bytes([2], ran=()) == 200
    assert graph.bytes([2], ran={1, 3}) == 800  # both conversions ran by themselves: floats lay in memory
