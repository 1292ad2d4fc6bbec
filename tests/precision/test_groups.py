"""Groups: every node that could be quantized is in exactly one, with the product that it follows."""

from __future__ import annotations

import onnx
from nets import conv_net, matmul_net
from onnx import TensorProto, helper

from mlopt.precision.groups import groups_of, name_nodes

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


def test_a_table_of_which_rows_are_taken_is_not_read() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed"),
        helper.make_node("MatMul", ["rows", "w"], ["y"], name="product"),
    ]
    constants = [helper.make_tensor("table", TensorProto.FLOAT, [1000, 4], [0.0] * 4000)]
    constants.append(helper.make_tensor("w", TensorProto.FLOAT, [4, 4], [0.0] * 16))
    ends = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 2])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4]))
    graph = inferred(helper.make_model(helper.make_graph(nodes, "net", ends[:1], ends[1:], constants)))
    work = {group.name: group.work for group in groups_of(graph, frozenset({"Gather", "MatMul"}))}
    assert work == {"embed": 8, "product": 8 * (1 + 4) + 16 * 16}
