"""Borders: where integers pass from group to group, and what a group in floating point between them costs."""

from __future__ import annotations

import onnx
import pytest
from nets import conv_net
from onnx import TensorProto, helper

from mlopt.precision.borders import Border, borders_of

CONV = frozenset({"Conv"})
EVERY = frozenset({"Conv", "Relu", "Add", "Mul", "GlobalAveragePool", "Gemm"})


def graph_of(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
    """From `x` to `y`, both of 8 channels and 4×4."""
    weights = [helper.make_tensor("w", TensorProto.FLOAT, [8, 8, 1, 1], [1.0] * 64)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights))
    return onnx.shape_inference.infer_shapes(model).graph


def conv(read: str, written: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [read, "w"], [written], name=f"to_{written}")


def test_a_tensor_between_two_groups_is_a_border_past_what_hands_it_on() -> None:
    graph = onnx.shape_inference.infer_shapes(conv_net(batch=1)).graph
    (between, _) = borders_of(graph, EVERY, outputs=True)
    assert (between.writer, between.readers) == ("conv1", {"conv2"})
    (read,) = [node for node in graph.node if node.name == "conv2"]
    (value,) = [value for value in graph.value_info if value.name == read.input[0]]
    sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    assert between.size == sizes[0] * sizes[1] * sizes[2] * sizes[3]
    assert borders_of(graph, CONV, outputs=False)[0].groups == between.groups


def test_it_is_paid_where_one_side_alone_is_in_floating_point() -> None:
    border = Border(10, "a", frozenset({"b", "c"}), narrowing=3, widening=2)
    paid = {(): 0, ("a",): 30, ("b",): 20, ("b", "c"): 20, ("a", "b"): 30, ("a", "b", "c"): 0, ("d",): 0}
    assert {kept: border.cost(frozenset(kept)) for kept in paid} == paid


def test_what_stays_in_floating_point_anyhow_writes_no_integers_and_reads_none() -> None:
    graph = graph_of([conv("x", "a"), conv("a", "b"), conv("b", "y")])
    (behind,) = borders_of(graph, CONV, outputs=True, floating={"to_a"})[:1]
    assert (behind.writer, behind.readers) == ("", {"to_b"})
    assert behind.cost(()) == behind.size * 32, "with all in int8"
    assert behind.cost({"to_b"}) == 0
    assert [one.writer for one in borders_of(graph, CONV, outputs=True, floating={"to_b"})] == [""]


def test_each_part_that_is_joined_is_a_border() -> None:
    nodes = [conv("x", "a"), helper.make_node("Sigmoid", ["x"], ["s"], name="sigmoid"), conv("x", "b")]
    nodes.append(helper.make_node("Concat", ["s", "a", "b"], ["joined"], name="join", axis=2))
    nodes += [
        helper.make_node("MaxPool", ["joined"], ["pooled"], name="pool", kernel_shape=[9, 1]),
        conv("pooled", "y"),
    ]
    found = borders_of(graph_of(nodes), CONV, outputs=False)
    assert [(one.writer, one.readers) for one in found] == [("to_a", {"to_y"}), ("to_b", {"to_y"})]
    assert {one.size for one in found} == {8 * 4 * 4}, "no more than what each writes"


def test_a_pooling_leaves_fewer_numbers() -> None:
    pool = helper.make_node("MaxPool", ["a"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2])
    (border,) = borders_of(graph_of([conv("x", "a"), pool, conv("pooled", "y")]), CONV, outputs=False)
    assert border.size == 8 * 2 * 2


def test_shapes_are_no_borders() -> None:
    nodes = [
        conv("x", "a"),
        helper.make_node("Shape", ["a"], ["shape"], name="shape"),
        helper.make_node("Slice", ["shape", "zero", "two"], ["part"], name="part"),
        conv("a", "b"),
        helper.make_node("Concat", ["part", "rest"], ["wanted"], name="wanted", axis=0),
        helper.make_node("Reshape", ["b", "wanted"], ["y"], name="reshape"),
    ]
    graph = graph_of(nodes)
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        for name, values in {"zero": [0], "two": [2], "rest": [4, 4]}.items()
    )
    graph = onnx.shape_inference.infer_shapes(helper.make_model(graph)).graph
    found = borders_of(graph, frozenset({"Conv", "Slice", "Concat", "Reshape"}), outputs=True)
    assert [(one.writer, one.readers) for one in found] == [("to_a", {"to_b"})]


@pytest.mark.parametrize(("outputs", "writers"), [(False, ["to_a"]), (True, ["to_a", "to_b"])])
def test_behind_a_gate_integers_are_made_anew(outputs: bool, writers: list[str]) -> None:
    gate = helper.make_node("Mul", ["b", "a"], ["gated"], name="gate")
    graph = graph_of([conv("x", "a"), conv("a", "b"), gate, conv("gated", "y")])
    found = borders_of(graph, EVERY, outputs=outputs)
    assert [border.writer for border in found] == writers
    assert {border.widening for border in found} == ({32} if outputs else {0})
    assert {border.narrowing for border in found} == ({32} if outputs else {16})


def test_one_tensor_for_two_groups_is_one_border() -> None:
    both = helper.make_node("Add", ["b", "c"], ["y"], name="sum")
    (border,) = borders_of(graph_of([conv("x", "a"), conv("a", "b"), conv("a", "c"), both]), CONV, outputs=False)
    assert border == Border(8 * 4 * 4, "to_a", frozenset({"to_b", "to_c"}), narrowing=16, widening=0)


def test_what_parts_and_joins_again_and_again_is_gone_through_once() -> None:
    """Two ways at each of 40 places, which are 2 to the 40th in all."""
    nodes = [conv("x", "t0")]
    for place in range(40):
        ways = [
            helper.make_node("Relu", [f"t{place}"], [f"{way}{place}"], name=f"{way}{place}")
            for way in ("left", "right")
        ]
        joined = helper.make_node(
            "Concat", [f"left{place}", f"right{place}"], [f"t{place + 1}"], name=f"j{place}", axis=2
        )
        nodes += [*ways, joined]
    (border,) = borders_of(graph_of([*nodes, conv("t40", "y")]), CONV, outputs=False)
    assert (border.writer, border.readers) == ("to_t0", {"to_y"})
