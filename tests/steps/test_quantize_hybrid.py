"""int8 weights beside activations that each query rounds: what is written, what stays in float32, what LiteRT says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from trials import probe, run, source, sqnr

from mlopt.artifact import Artifact
from mlopt.errors import BudgetInfeasible, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.runners.litert import LiteRtRunner
from mlopt.steps.quantize_dynamic import QuantizeDynamic
from mlopt.steps.quantize_hybrid import QuantizeHybrid
from mlopt.steps.to_tflite import ToTflite
from mlopt.tflite.write import write_tflite

pytestmark = pytest.mark.litert

FILES = ("model.onnx", "model.tflite")


def made(tmp_path: Path, model: onnx.ModelProto, **options: Any) -> Artifact:
    step = QuantizeHybrid(probe(model), **{"least_sqnr": 20.0, "shortest_dot": 16, **options})
    return run(step, source(tmp_path / "m", model), tmp_path / "q")


def products(artifact: Artifact) -> dict[str, bool]:
    """Of convolutions and products by name, whether what they read is rounded in each query."""
    graph = onnx.load(str(artifact.main)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return {
        node.name: makers.get(node.input[0]) == "DequantizeLinear"
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul")
    }


def said_by(artifact: Artifact, feed: dict[str, np.ndarray]) -> np.ndarray:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(artifact.main), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feed)[0]
    return found


def picture(model: onnx.ModelProto, count: int = 1, *, times: float = 1.0) -> dict[str, np.ndarray]:
    value = model.graph.input[0]
    shape = [count, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
    return {value.name: times * np.random.default_rng(5).standard_normal(shape).astype(np.float32)}


def test_dense_products_are_rounded_in_each_query_and_depthwise_and_short_ones_are_not(tmp_path: Path) -> None:
    graph = nets.mobile_net().graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    terms = {node.name: int(np.prod(sizes[node.input[1]][1:])) for node in graph.node if node.op_type == "Conv"}
    depthwise = {node.name for node in graph.node for entry in node.attribute if entry.name == "group" and entry.i > 1}
    found = products(made(tmp_path, nets.mobile_net()))
    assert depthwise
    assert {name: found[name] for name in terms} == {
        name: count >= 16 and name not in depthwise for name, count in terms.items()
    }
    assert {found[name] for name in terms} == {True, False}


def test_weights_are_int8_with_a_scale_for_each_output_channel(tmp_path: Path) -> None:
    model = nets.conv_net()
    after = onnx.load(str(made(tmp_path, model).main)).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.initializer}
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [node for node in after.node if node.op_type == "DequantizeLinear" and node.input[0] in held]
    assert pairs
    for node in pairs:
        codes, scale = held[node.input[0]], held[node.input[1]]
        assert codes.dtype == np.int8
        assert np.abs(codes.astype(int)).max() == 127
        axis = node.attribute[0].i
        shape = [-1 if place == axis else 1 for place in range(codes.ndim)]
        apart = np.abs(codes * scale.reshape(shape) - before[node.input[0]])
        assert (apart <= 0.5001 * scale.reshape(shape)).all()


def test_what_costs_most_noise_stays_in_float32(tmp_path: Path) -> None:
    model = nets.conv_net()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    few, many = (made(tmp_path / name, model, least_sqnr=least) for name, least in (("a", 20.0), ("b", 42.0)))
    assert products(few) == {"conv1": True, "conv2": True, "head": True}
    assert products(many) == {"conv1": True, "conv2": True, "head": False}, "the least work, for the most noise"
    assert notes_in(many.main)[-1] == "too noisy in int8: head"
    assert "dB of signal to noise on 4 inputs" in notes_in(many.main)[0]
    feed = picture(model, 8)
    exact = said_by(source(tmp_path / "exact", model), feed)
    assert sqnr(exact, said_by(many, feed)) > max(40, sqnr(exact, said_by(few, feed)))


def test_more_than_a_mix_can_keep_is_said_to_be_infeasible(tmp_path: Path) -> None:
    asked = {120.0: "120.0", 64.0: "64.0", float("inf"): "every answer"}  # after a search where it is not far off
    for number, (least, said) in enumerate(asked.items()):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(BudgetInfeasible, match=rf"leave 46.* dB .* keeps {said}") as error:
            made(tmp_path / str(number), nets.fire_net(), least_sqnr=least)
        assert "--samples" in error.value.next


def test_what_has_no_such_product_is_said(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="1000 terms"):
        made(tmp_path, nets.conv_net(), shortest_dot=1000)


def test_what_a_tflite_file_cannot_hold_is_said_before_anything_is_searched(tmp_path: Path) -> None:
    model = nets.conv_net()
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Erf"
    with pytest.raises(UnsupportedModel, match="Erf"):
        made(tmp_path, model, least_sqnr=42.0)


def test_answers_that_are_no_numbers_are_said(tmp_path: Path) -> None:
    model = nets.conv_net()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "b1")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, np.inf, np.float32), "b1"))
    with pytest.raises(UnsupportedModel, match="is no number"):
        made(tmp_path, model)


def test_names_that_are_there_already_are_left_alone(tmp_path: Path) -> None:
    plain, taken = nets.conv_net(), nets.conv_net()
    for name in ("w1.scale", "w1.zero", "w1.values", "image.scale", "image.rounded"):
        taken.graph.initializer.append(nets.weights(name, 3))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = made(tmp_path / "a", plain), made(tmp_path / "b", taken)
    np.testing.assert_array_equal(said_by(one, picture(plain)), said_by(other, picture(plain)))


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e-35])
def test_channels_of_next_to_nothing_stay_in_the_kernel(tmp_path: Path, size: float) -> None:
    """A scale below the smallest normal number is none to LiteRT: it refuses products, and slows convolutions down."""
    from ai_edge_litert.interpreter import Interpreter

    model = nets.conv_net()
    for tensor in model.graph.initializer:
        if tensor.name in ("w2", "w3"):
            array = numpy_helper.to_array(tensor).copy()
            array[0] = size
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    lite = run(ToTflite(), made(tmp_path, model), tmp_path / "t", files=FILES)
    interpreter = Interpreter(str(lite.path / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    kernels = [one["op_name"] for one in interpreter._get_ops_details()]
    assert kernels.count("DELEGATE") == 1
    feed = picture(model)
    with LiteRtRunner(lite.main, threads=1) as runner:
        assert sqnr(said_by(source(tmp_path / "e", model), feed), runner.infer(feed)[0]) > 25


def test_the_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = (made(tmp_path / name, nets.fire_net(), least_sqnr=30.0) for name in ("a", "b"))
    assert one.digest == other.digest


@pytest.mark.parametrize("make", [nets.conv_net, nets.mobile_net, nets.depthwise_net, nets.fire_net, nets.matmul_net])
def test_litert_answers_as_the_onnx_file_says(tmp_path: Path, make: Any) -> None:
    model = make()
    hybrid = made(tmp_path, model)
    lite = run(ToTflite(), hybrid, tmp_path / "t", files=FILES)
    feed = picture(model)
    with LiteRtRunner(lite.main, threads=1) as runner:
        found = runner.infer(feed)[0]
    expected, exact = said_by(hybrid, feed), said_by(source(tmp_path / "e", model), feed)
    assert sqnr(expected, found) > sqnr(exact, expected), "nearer to what is written than rounding is to the model"
    assert sqnr(exact, found) > 25


def test_each_query_has_a_range_of_its_own(tmp_path: Path) -> None:
    """However large its numbers are, where a range from samples would be wrong; neighbours in a batch do not count."""
    model = nets.conv_net()
    lite = run(ToTflite(), made(tmp_path, model), tmp_path / "t", files=FILES)
    exact = source(tmp_path / "e", model)
    with LiteRtRunner(lite.main, threads=1) as runner:
        for times in (1e-3, 1.0, 1e3):
            feed = picture(model, times=times)
            assert sqnr(said_by(exact, feed), runner.infer(feed)[0]) > 25
        name = model.graph.input[0].name
        small, large = picture(model)[name], picture(model, times=1e3)[name]
        both = runner.infer({name: np.concatenate([small, large])})[0]
        for row, alone in zip(both, (small, large), strict=True):
            np.testing.assert_allclose(row, runner.infer({name: alone})[0][0], rtol=1e-4, atol=1e-4)


def test_the_file_multiplies_int8_weights_and_a_quarter_of_its_bytes_are_left(tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    written = write_tflite(made(tmp_path, nets.conv_net(width=64)).main)
    graph = schema.ModelT.InitFromPackedBuf(written.data, 0).subgraphs[0]
    inputs = [[graph.tensors[place].type for place in one.inputs[:2]] for one in graph.operators]
    assert [schema.TensorType.FLOAT32, schema.TensorType.INT8] in inputs
    assert not any(kinds[0] == schema.TensorType.INT8 for kinds in inputs)
    plain = write_tflite(source(tmp_path / "p", nets.conv_net(width=64)).main)
    assert len(written.data) < 0.4 * len(plain.data)
    assert written.integer
    assert not plain.integer


def rounding(*, reader: str = "Relu", grid: tuple[str, ...] = ("q", "s", "z"), shown: str = "y") -> onnx.ModelProto:
    """What each query rounds, and an operator that reads it."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], name="rounding"),
        helper.make_node("DequantizeLinear", list(grid), ["d"], name="undone"),
        helper.make_node(reader, ["d"], ["y"], name="reader"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y", "d")]
    held = [numpy_helper.from_array(np.float32(0.5), "other")]
    shown_values = [end for end in ends if end.name in (shown, "y")]
    graph = helper.make_graph(nodes, "net", ends[:1], shown_values, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (rounding(), "'reader'.*rounds for itself"),
        (rounding(grid=("q", "other", "z")), "'rounding'.*more than its first output"),
        (rounding(grid=("q", "s")), "'rounding'"),
        (rounding(shown="d"), "'undone'.*output"),
    ],
)
def test_a_file_cannot_hold_what_each_query_rounds_for_others(tmp_path: Path, model: onnx.ModelProto, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        write_tflite(source(tmp_path / "m", model).main)


def test_what_onnx_runtime_quantized_dynamically_is_refused_with_a_sentence(tmp_path: Path) -> None:
    dynamic = run(QuantizeDynamic(), source(tmp_path / "m", nets.conv_net()), tmp_path / "q")
    with pytest.raises(UnsupportedModel, match="DynamicQuantizeLinear"):
        write_tflite(dynamic.main)
