"""Depthwise convolutions: which of them a gate stands behind, and what int8 saves of them beside bf16."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from mlopt.precision.depthwise import beside_bf16, depthwise, gated
from mlopt.precision.groups import groups_of
from mlopt.steps.qdq import Qdq

CONV = frozenset({"Conv"})
SHAPES = {"w": [8, 1, 1, 1], "v": [8, 8, 1, 1]}


def depthwise_net() -> onnx.GraphProto:
    """Three depthwise convolutions between products: behind the first a ReLU, behind the second a gate that multiplies
    it, and the third's result leaves the net."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["d1"], name="first", group=8),
        helper.make_node("Relu", ["d1"], ["r1"], name="relu"),
        helper.make_node("Conv", ["r1", "v"], ["p1"], name="dense"),
        helper.make_node("Conv", ["p1", "w"], ["d2"], name="second", group=8),
        helper.make_node("GlobalAveragePool", ["d2"], ["m"], name="pool"),
        helper.make_node("Conv", ["m", "v"], ["g"], name="gate"),
        helper.make_node("Mul", ["d2", "g"], ["gated"], name="gated"),
        helper.make_node("Conv", ["gated", "v"], ["p2"], name="narrow"),
        helper.make_node("Conv", ["p2", "w"], ["d3"], name="third", group=8),
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [1.0] * 8 * shape[1]) for name, shape in SHAPES.items()
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in ("x", "d3")]
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights))
    return onnx.shape_inference.infer_shapes(model).graph


def test_beside_bf16_a_depthwise_convolution_saves_nothing() -> None:
    graph = depthwise_net()
    before = groups_of(graph, CONV)
    after = beside_bf16(before, graph)
    work = {group.name: group.work for group in after}
    assert [work[name] for name in ("first", "second", "third")] == [0, 0, 0]
    kept = {group.name: group.work for group in before}
    assert all(work[name] == kept[name] > 0 for name in ("dense", "gate", "narrow"))
    assert [group.nodes for group in after] == [group.nodes for group in before]


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    graph = depthwise_net()
    first = graph.node[0]
    del first.attribute[:]
    assert [node.name for node in depthwise(graph)] == ["second", "third"]


def test_gated_are_those_whose_result_no_product_reads_as_it_is() -> None:
    assert gated(depthwise_net(), CONV) == ("second", "third")


def test_beside_bf16_gated_ones_stay_in_floating_point_and_notes_name_them() -> None:
    graph = depthwise_net()
    qdq = Qdq("u8s8", per_channel=True, outputs=False)
    assert qdq.floating(graph) == ()
    beside = replace(qdq, beside_bf16=True)
    assert beside.floating(graph) == ("second", "third")
    (note,) = beside.notes(graph)
    assert note.startswith("2 depthwise convolutions before gates or sums stay in bf16")
    assert note.endswith("second, third")


def behind(nodes: list[onnx.NodeProto], last: str) -> onnx.GraphProto:
    """A depthwise convolution that writes `d`, the nodes, and a convolution that reads what they write."""
    every = [
        helper.make_node("Conv", ["x", "w"], ["d"], name="wise", group=8),
        *nodes,
        helper.make_node("Conv", [last, "v"], ["out"], name="dense"),
    ]
    weights = [
        helper.make_tensor(name, TensorProto.FLOAT, shape, [1.0] * 8 * shape[1]) for name, shape in SHAPES.items()
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in ("x", "out")]
    return helper.make_graph(every, "net", ends[:1], ends[1:], weights)


@pytest.mark.parametrize(
    ("nodes", "last", "found"),
    [
        ([helper.make_node("MaxPool", ["d"], ["p", "where"], kernel_shape=[1, 1])], "p", ()),
        ([helper.make_node("HardSwish", ["d"], ["h"])], "h", ("wise",)),
        ([helper.make_node("LayerNormalization", ["d", "scale"], ["n"])], "n", ("wise",)),
        ([helper.make_node("Add", ["d", "x"], ["sum"])], "sum", ("wise",)),
        (
            [
                helper.make_node("Conv", ["d", "w"], ["e"], name="next", group=8),
                helper.make_node("Add", ["e", "x"], ["sum"]),
            ],
            "sum",
            ("wise", "next"),
        ),
    ],
    ids=["an output that nothing reads", "HardSwish", "normalisation", "sum", "read by one that stays"],
)
def test_what_lies_between_decides(nodes: list[onnx.NodeProto], last: str, found: tuple[str, ...]) -> None:
    graph = behind(nodes, last)
    assert gated(graph, CONV) == found
    assert set(gated(graph, frozenset({"MatMul"}))) >= {"wise"}, "no convolution is an integer product"
