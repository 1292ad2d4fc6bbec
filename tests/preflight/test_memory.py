"""What a model needs at least: weights by their type, and the values that are in use at one time."""

from __future__ import annotations

import nets
import onnx
import typed_nets
from onnx import TensorProto, helper

from mlopt.preflight.memory import need


def test_weights_count_by_their_bits() -> None:
    int4 = need(typed_nets.PRECISIONS["int4"](), {})
    assert int4.weights == 256 * 256 // 2 + 2 * (2 * 256)  # nibbles, and a half-precision scale for each block
    assert need(typed_nets.PRECISIONS["fp16"](), {}).weights == 2 * 256 * 256


def test_values_count_while_somebody_reads_them() -> None:
    """A chain holds two values at a time; one that a later node reads stays until then."""
    value = helper.make_tensor_value_info
    ends = [value("x", TensorProto.FLOAT, [1, 100])], [value("y", TensorProto.FLOAT, [1, 100])]

    def chain(last: list[str]) -> onnx.ModelProto:
        nodes = [helper.make_node("Relu", [read], [made]) for read, made in (("x", "a"), ("a", "b"), ("b", "c"))]
        graph = helper.make_graph([*nodes, helper.make_node("Add", last, ["y"])], "g", *ends)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])

    assert need(chain(["c", "c"]), {}).activations == 2 * 400
    assert need(chain(["c", "a"]), {}).activations == 3 * 400


def test_the_shape_that_is_asked_decides() -> None:
    one = need(nets.conv_net(), {"image": (1, 3, 32, 32)})
    eight = need(nets.conv_net(), {"image": (8, 3, 32, 32)})
    assert eight.activations == 8 * one.activations
    assert (one.unknown, eight.unknown) == (0, 0)
    assert eight.to_build == 2 * eight.to_run


def test_a_size_that_nobody_knows_is_counted_as_such() -> None:
    assert need(nets.conv_net(), {}).unknown == 7  # the batch is free, and nobody said how large it gets


def test_a_graph_that_contradicts_itself_is_no_end() -> None:
    model = nets.conv_net(batch=1)
    model.graph.node[0].attribute[0].ints[:] = [1]
    assert need(model, {"image": (1, 5, 5, 5)}).weights > 0
