"""Depthwise convolutions: which of them a gate stands behind, and what int8 saves of them beside bf16."""

from __future__ import annotations

from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from mlopt.precision.depthwise import beside_bf16, depthwise, gated
from mlopt.precision.groups import groups_of
from mlopt.steps.qdq import Qdq

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


def test_beside_bf16_a_depthwise_convolution_saves_what_its_result_takes_to_be_written_again() -> None:
    graph = depthwise_net()
    before = groups_of(graph, frozenset({"Conv"}))
    after = beside_bf16(before, graph)
    work = {group.name: group.work for group in after}
    assert work["first"] == 16 * 8 * 4 * 4, "a product reads it through a ReLU"
    assert work["second"] == 0, "a product reads it, but so does one that multiplies it first"
    assert work["third"] == 0, "no product reads it"
    kept = {group.name: group.work for group in before}
    assert all(work[name] == kept[name] for name in ("dense", "gate", "narrow"))
    assert [group.nodes for group in after] == [group.nodes for group in before]


def test_a_convolution_of_one_channel_is_not_depthwise() -> None:
    graph = depthwise_net()
    first = graph.node[0]
    del first.attribute[:]
    assert [node.name for node in depthwise(graph)] == ["second", "third"]


def test_gated_are_those_whose_result_no_product_reads_as_it_is() -> None:
    assert gated(depthwise_net()) == ("second", "third")


def test_beside_bf16_gated_ones_stay_in_floating_point_and_notes_name_them() -> None:
    graph = depthwise_net()
    qdq = Qdq("u8s8", per_channel=True, outputs=False)
    assert qdq.floating(graph) == ()
    beside = replace(qdq, beside_bf16=True)
    assert beside.floating(graph) == ("second", "third")
    (note,) = beside.notes(graph)
    assert note.startswith("2 depthwise convolutions before gates stay in floating point")
    assert note.endswith("second, third")
