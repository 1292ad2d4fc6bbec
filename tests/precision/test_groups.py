"""Groups: every node that could be quantized is in exactly one, with the product that it follows."""

from __future__ import annotations

import onnx
from nets import conv_net, matmul_net
from onnx import TensorProto, helper

from mlopt.precision.groups import beside_bf16, groups_of, name_nodes

EVERY = frozenset({"Conv", "Gemm", "MatMul", "Relu", "Add", "GlobalAveragePool"})


def inferred(model: onnx.ModelProto) -> onnx.GraphProto:
    return onnx.shape_inference.infer_shapes(model).graph


def test_a_product_leads_and_the_rest_follows() -> None:
    groups = groups_of(inferred(conv_net(batch=1)), EVERY)
    assert [group.nodes for group in groups] == [("conv1", "relu1"), ("conv2", "relu2", "pool"), ("head",)]
    assert [group.name for group in groups] == ["conv1", "conv2", "head"]


def test_work_is_multiplications_and_elements_written() -> None:
    first, second = groups_of(inferred(matmul_net(width=64)), EVERY)
    assert first.work == 64 * (64 + 1) + 64 + 16 * first.weights, "the product, and the ReLU behind it"
    assert second.work == 10 * (64 + 1) + 16 * second.weights
    assert (first.weights, second.weights) == (64 * 64, 64 * 10)


def test_only_what_has_an_integer_kernel_counts() -> None:
    groups = groups_of(inferred(conv_net(batch=1)), frozenset({"Conv"}))
    assert [group.nodes for group in groups] == [("conv1",), ("conv2",)]


def test_a_sum_belongs_to_the_later_branch() -> None:
    model = conv_net(batch=1)
    nodes = list(model.graph.node)
    nodes[3].input[0] = "sum"
    nodes.insert(3, helper.make_node("Add", ["r1", "c2"], ["sum"], name="add"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    groups = groups_of(inferred(model), EVERY)
    assert groups[1].nodes == ("conv2", "add", "relu2", "pool")


def test_what_comes_before_any_product_leads_itself() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="only")]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:])
    (group,) = groups_of(graph, EVERY)
    assert (group.name, group.nodes, group.work) == ("only", ("only",), 4)


def test_nodes_without_a_name_get_one_of_their_own() -> None:
    model = conv_net()
    for node, name in zip(model.graph.node, ["", "same", "same", "", "Conv_0", "", ""], strict=True):
        node.name = name
    name_nodes(model.graph)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    again = list(names)
    name_nodes(model.graph)
    assert [node.name for node in model.graph.node] == again


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
    return inferred(helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)))


SHAPES = {"w": [8, 1, 1, 1], "v": [8, 8, 1, 1]}


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
