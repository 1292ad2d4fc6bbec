"""What stays in floating point where only products with weights compute on integers; and scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, transformer_net, weights
from onnx import helper
from trials import answers, calibration, run, source, sqnr

from mlopt.onnx_file import notes_in
from mlopt.precision.activations import idle_joints, inputs, scores, summed, unweighted
from mlopt.steps.equalize import Equalize
from mlopt.steps.quantize_static import QuantizeStatic

PRODUCTS = {"op_types": ("Conv", "Gemm", "MatMul", "Concat"), "outputs": False}


def test_attention_multiplies_activations() -> None:
    assert unweighted(transformer_net().graph) == ("scores", "mixed")


def test_a_joint_counts_where_a_product_reads_it_past_what_hands_it_on() -> None:
    def node(kind: str, read: str, made: str) -> onnx.NodeProto:
        return helper.make_node(kind, [read, *(["w"] if kind in ("Conv", "Concat") else [])], [made], name=made)

    chain = [node("Concat", "x", "joined"), node("Relu", "joined", "r"), node("MaxPool", "r", "pooled")]
    graph = helper.make_graph([*chain, node("Conv", "pooled", "y")], "net", [], [])
    assert idle_joints(graph) == ()
    graph = helper.make_graph([*chain, node("Softmax", "pooled", "s"), node("Conv", "s", "y")], "net", [], [])
    assert idle_joints(graph) == ("joined", "pooled"), "arithmetic in floating point lies between"
    assert idle_joints(helper.make_graph(chain, "net", [], [])) == ("joined", "pooled"), "outputs are no products"


def shortcut_net(*, read_twice: bool = False) -> onnx.ModelProto:
    """Two convolutions side by side and their sum, as where a ResNet halves its picture."""
    model = conv_net(side=16)
    graph = model.graph
    graph.initializer.append(weights("ws", 16, 3, 1, 1))
    graph.node.insert(0, helper.make_node("Conv", ["image", "ws"], ["short"], name="shortcut", strides=[2, 2]))
    second = next(node for node in graph.node if node.name == "conv2")
    second.output[0] = "long"
    at = list(graph.node).index(second) + 1
    graph.node.insert(at, helper.make_node("Add", ["short", "long"], ["c2"], name="sum"))
    if read_twice:
        graph.output.append(helper.make_tensor_value_info("short", onnx.TensorProto.FLOAT, [None] * 4))
    return model


def test_of_two_products_that_are_added_one_is_written_as_integers() -> None:
    graph = shortcut_net().graph
    assert summed(graph) == ("short",)
    assert summed(graph, but={"conv2"}) == ()
    assert summed(shortcut_net(read_twice=True).graph) == ()
    assert summed(conv_net().graph) == ()


def test_what_reaches_as_far_to_both_sides_and_what_is_added_has_no_zero_point(tmp_path: Path) -> None:
    model = shortcut_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(QuantizeStatic(samples, **PRODUCTS), base, tmp_path / "q")
    graph = onnx.load(str(made.main)).graph
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    types = {node.input[0]: zeros[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"}
    assert {name: (str(zero.dtype), int(zero)) for name, zero in types.items() if name != "f"} == {
        "image": ("int8", 0),
        "short": ("int8", 0),
        "r1": ("uint8", 0),
    }


def test_inside_a_net_activations_are_signed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    model = transformer_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    signed = []
    for asked in (False, True):
        made = run(QuantizeStatic(samples, **PRODUCTS, signed=asked), base, tmp_path / str(asked))
        graph = onnx.load(str(made.main)).graph
        zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        read = {node.input[0]: zeros[node.input[2]].dtype for node in graph.node if node.op_type == "QuantizeLinear"}
        signed.append({name for name, dtype in read.items() if dtype == np.int8})
    assert signed[0] <= inputs(model.graph)
    assert signed[1] > signed[0]


def test_an_input_is_one_transposed_too() -> None:
    graph = conv_net().graph
    graph.node.insert(0, helper.make_node("Transpose", ["image"], ["turned"], name="turn", perm=[0, 1, 3, 2]))
    assert inputs(graph) == {"image", "turned"}


def test_scores_lie_behind_the_last_products() -> None:
    assert scores(conv_net().graph) == {"logits"}
    graph = conv_net().graph
    graph.node.append(helper.make_node("Softmax", ["logits"], ["shares"], name="softmax"))
    graph.node.append(helper.make_node("Relu", ["c1"], ["beside"], name="beside"))
    assert scores(graph) == {"logits", "shares", "beside"}


def test_ranges_of_scores_are_whole_whatever_the_calibrator(tmp_path: Path) -> None:
    model = onnx.shape_inference.infer_shapes(conv_net())
    samples = calibration(tmp_path, model)
    step = QuantizeStatic(samples, calibrator="percentile", percentile=90)
    found, extremes = (
        step.qdq.observe(model, samples, tmp_path, how) for how in (step.how, QuantizeStatic(samples).how)
    )
    assert found["logits"] == extremes["logits"]
    assert found["c2"] != extremes["c2"]


def test_attention_in_floating_point_is_nearer_to_the_original_and_said(tmp_path: Path) -> None:
    model = transformer_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(4).standard_normal((8, 8, 32)).astype(np.float32)}
    exact = answers(base, feed)
    made = run(QuantizeStatic(samples, **PRODUCTS), base, tmp_path / "q")  # type: ignore[arg-type]
    every = run(QuantizeStatic(samples, op_types=("MatMul",)), base, tmp_path / "all")
    assert sqnr(exact, answers(made, feed)) > sqnr(exact, answers(every, feed))
    graph = onnx.load(str(made.main)).graph
    dequantized = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    read = {node.name: set(node.input) & dequantized for node in graph.node if node.op_type == "MatMul"}
    assert {name for name, pairs in read.items() if not pairs} == {"scores", "mixed"}
    assert notes_in(made.main) == ("2 products of two activations stay in floating point: scores, mixed",)


@pytest.mark.parametrize("shared", [False, True])
def test_outliers_of_a_transformer_cost_little_after_equalisation(tmp_path: Path, shared: bool) -> None:
    """As exporters write it: norms with equal scales and biases share one tensor."""
    model = transformer_net(outliers=64)
    if shared:
        second = next(node for node in model.graph.node if node.name == "norm2")
        second.input[1:] = ["norm1_gamma", "norm1_beta"]
        for tensor in [tensor for tensor in model.graph.initializer if tensor.name.startswith("norm2")]:
            model.graph.initializer.remove(tensor)
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(4).standard_normal((8, 8, 32)).astype(np.float32)}
    exact = answers(base, feed)
    even = run(Equalize(samples, **PRODUCTS), base, tmp_path / "e")  # type: ignore[arg-type]
    assert sqnr(exact, answers(even, feed)) > 100
    plain, better = (
        run(QuantizeStatic(samples, **PRODUCTS), each, tmp_path / name)  # type: ignore[arg-type]
        for each, name in ((base, "q"), (even, "qe"))
    )
    assert sqnr(exact, answers(better, feed)) > sqnr(exact, answers(plain, feed)) + 6
