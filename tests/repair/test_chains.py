"""Where channels may be scaled: chains that nobody else reads, and what keeps channels apart and scales with them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import conv_net, weights
from onnx import TensorProto, helper

from mlopt.repair.chains import columns_reach, pairs_of, scale
from mlopt.repair.equalization import equalize

SIDE = 8


def between(*nodes: onnx.NodeProto, extra: tuple[onnx.TensorProto, ...] = (), reader: str = "Conv") -> onnx.GraphProto:
    """A convolution that makes "c", the nodes, and a layer that reads "d"."""
    first = helper.make_node("Conv", ["x", "w1", "b1"], ["c"], name="first")
    second = {
        "Conv": helper.make_node("Conv", ["d", "w2"], ["y"], name="second"),
        "Gemm": helper.make_node("Gemm", ["d", "w2"], ["y"], name="second", transB=1),
    }[reader]
    shape = (3, 4, 1, 1) if reader == "Conv" else (3, 4 * SIDE * SIDE)
    return helper.make_graph(
        [first, *nodes, second],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights("w1", 4, 2, 1, 1), weights("b1", 4), weights("w2", *shape), *extra],
    )


def node(operator: str, *inputs: str, **attributes: object) -> onnx.NodeProto:
    return helper.make_node(operator, [*(inputs or ("c",))], ["d"], name=operator.lower(), **attributes)


flat = onnx.numpy_helper.from_array(np.array([1, -1]), "to")


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        (between(node("Relu")), True),
        (between(node("LeakyRelu", alpha=0.1)), True),
        (between(node("PRelu", "c", "slope"), extra=(weights("slope", 4, 1, 1),)), True),
        (between(node("MaxPool", kernel_shape=[2, 2])), True),
        (between(node("AveragePool", kernel_shape=[2, 2])), True),
        (between(node("Clip", "c", "low", "high"), extra=(weights("low"), weights("high"))), False),
        (between(node("Sigmoid")), False),
        (between(node("HardSwish")), False),
        (between(node("Transpose", perm=[0, 2, 3, 1])), False),
        (between(node("Softmax", axis=1)), False),
        (between(node("ReduceMean", axes=[-1, -2])), True),
        (between(node("ReduceMean", axes=[1, 2])), False),
        (between(node("Reshape", "c", "to"), extra=(flat,), reader="Gemm"), True),
        (between(node("Flatten"), reader="Gemm"), True),
        (between(node("Flatten", axis=2), reader="Gemm"), False),
    ],
    ids=lambda value: value.node[1].op_type if isinstance(value, onnx.GraphProto) else str(value),
)
def test_what_may_stand_between(graph: onnx.GraphProto, found: bool) -> None:
    assert bool(pairs_of(graph)) == found


def test_a_tensor_that_somebody_else_reads_is_left_alone() -> None:
    graph = between(node("Relu"))
    assert len(pairs_of(graph)) == 1
    for tensor in ("c", "d"):
        other = between(node("Relu"))
        other.node.append(helper.make_node("Sigmoid", [tensor], ["z"], name="other"))
        assert not pairs_of(other)
        shown = between(node("Relu"))
        shown.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
        assert not pairs_of(shown)


def test_pairs_go_on_through_pooling_to_the_head() -> None:
    pairs = pairs_of(conv_net().graph)
    assert [(pair.first.name, [one.name for one in pair.seconds], pair.spread) for pair in pairs] == [
        ("conv1", ["conv2"], 1),
        ("conv2", ["head"], 1),
    ]
    flat = between(node("Flatten"), reader="Gemm")
    assert pairs_of(flat)[0].spread == SIDE * SIDE
    assert np.prod(pairs_of(flat)[0].seconds[0].shape) == 3 * 4 * SIDE * SIDE


def test_several_layers_may_read_what_one_makes() -> None:
    """As a fire module's two convolutions do; not where anything but layers reads it too."""
    graph = between(node("Relu"))
    graph.node.append(helper.make_node("Conv", ["d", "w3"], ["z"], name="third"))
    graph.initializer.append(weights("w3", 5, 4, 3, 3))
    (pair,) = pairs_of(graph)
    assert [one.name for one in pair.seconds] == ["second", "third"]
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    before = dict(constants)
    assert (
        columns_reach(pair, constants)
        == np.abs(before["w3"]).max(axis=(0, 2, 3)).clip(np.abs(before["w2"]).max(axis=(0, 2, 3)))
    ).all()
    factors = np.array([0.5, 1, 2, 4])
    scale(pair, constants, factors)
    assert np.allclose(constants["w1"], before["w1"] / factors.reshape(-1, 1, 1, 1))
    assert np.allclose(constants["b1"], before["b1"] / factors)
    for name in ("w2", "w3"):
        assert np.allclose(constants[name], before[name] * factors.reshape(1, -1, 1, 1))
    graph.node.append(helper.make_node("Sigmoid", ["d"], ["s"], name="other"))
    assert not pairs_of(graph)


def test_ranges_end_alike_but_for_what_samples_hardly_showed() -> None:
    (pair,) = pairs_of(between(node("Relu")))
    graph = between(node("Relu"))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in graph.initializer}
    for name, axes in (("w1", (1, 2, 3)), ("w2", (0, 2, 3))):  # what `activations` leaves as it is
        constants[name] /= np.abs(constants[name]).max(axis=axes, keepdims=True)
    reach = np.array([1.0, 0.5, 1 / 256, 0.0])
    constants["w2"] *= reach.reshape(1, -1, 1, 1)
    before = {name: array.copy() for name, array in constants.items()}
    equalize([pair], constants, {"d": reach}, "ranges")
    grown = np.abs(constants["w1"]).max(axis=(1, 2, 3)) / np.abs(before["w1"]).max(axis=(1, 2, 3))
    assert np.allclose(grown, [1, 2, 4, 1])
