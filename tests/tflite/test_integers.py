"""Quantized nets as .tflite files: integers all the way, at most a step from what the ONNX file says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import graphs
import nets
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import WIDTH, Net
from onnx import numpy_helper
from trials import calibration, run, source, sqnr

from mlopt.artifact import Artifact
from mlopt.errors import UnsupportedModel
from mlopt.runners.litert import LiteRtRunner
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.tflite.flatbuffer import Grid
from mlopt.tflite.write import Written, write_tflite

pytestmark = pytest.mark.litert

NETS = [
    *(nets.conv_net, nets.gated_net, nets.mobile_net, nets.depthwise_net, nets.fire_net, nets.matmul_net),
    *(graphs.plain, graphs.residual, graphs.padded_residual),
]


def quantized(tmp_path: Path, model: onnx.ModelProto, **options: Any) -> Artifact:
    step = QuantizeStatic(calibration(tmp_path, model), **options)
    return run(step, source(tmp_path / "m", model), tmp_path / "q")


def said_by(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    """What the ONNX file says, without a runtime's fusions: all rounding where the pairs are."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found: np.ndarray = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feed)[0]
    return found


def feed_for(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    value = model.graph.input[0]
    shape = [8, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
    return {value.name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}


def answered(path: Path, feed: dict[str, np.ndarray]) -> np.ndarray:
    with LiteRtRunner(path, threads=1) as runner:
        return runner.infer(feed)[0]


def last_step(path: Path) -> float:
    """The distance of two answers that are neighbours: the scale of the last conversion."""
    graph = onnx.load(str(path)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scale = next(node.input[1] for node in graph.node if node.output[0] == graph.output[0].name)
    return float(constants[scale].item())


def operators(data: bytes) -> list[tuple[str, set[str]]]:
    """Of a file: each operator, and the types of what it computes with and into."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    return [
        (
            kinds[model.operatorCodes[one.opcodeIndex].builtinCode],
            {types[graph.tensors[number].type] for number in (one.inputs[0], *one.outputs)},
        )
        for one in graph.operators
    ]


@pytest.mark.parametrize("make", NETS)
@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_the_answers_are_those_of_the_onnx_file(tmp_path: Path, make: Callable[[], Any], scheme: str) -> None:
    model = make()
    made, feed = quantized(tmp_path, model, scheme=scheme), feed_for(model)
    found, expected = answered(made.main, feed), said_by(made.main, feed)
    assert np.abs(found - expected).max() <= 2.01 * last_step(made.main)
    assert np.mean(found == expected) > 0.5, "mostly the same integers"
    assert sqnr(said_by(tmp_path / "m" / "model.onnx", feed), found) > 20


@pytest.mark.parametrize("make", [nets.conv_net, nets.depthwise_net, nets.fire_net, graphs.padded_residual])
def test_nothing_between_the_ends_is_in_float32(tmp_path: Path, make: Callable[[], Any]) -> None:
    written = write_tflite(quantized(tmp_path, make()).main)
    assert written.integer
    assert not written.floating
    steps = operators(written.data)
    assert (steps[0][0], steps[-1][0]) == ("QUANTIZE", "DEQUANTIZE")
    assert all(types == {"INT8"} for _, types in steps[1:-1])


def test_what_the_recipe_keeps_in_float32_stays_that(tmp_path: Path) -> None:
    model = nets.mobile_net()
    made, feed = quantized(tmp_path, model, shortest_dot=32), feed_for(model)
    written = write_tflite(made.main)
    assert written.floating == tuple(f"conv{number}" for number in range(6))
    assert written.integer == ("conv6", "head")
    assert np.abs(answered(made.main, feed) - said_by(made.main, feed)).max() <= 2.01 * last_step(made.main)


def test_products_without_pairs_behind_them_compute_in_float32(tmp_path: Path) -> None:
    """As OpenVINO has them: the numbers are those of the file all the same."""
    model = nets.conv_net()
    made, feed = quantized(tmp_path, model, outputs=False), feed_for(model)
    assert write_tflite(made.main).floating == ("head",)
    assert sqnr(said_by(made.main, feed), answered(made.main, feed)) > 35


def test_weights_with_one_scale_for_all(tmp_path: Path) -> None:
    model = nets.depthwise_net()
    made, feed = quantized(tmp_path, model, per_channel=False), feed_for(model)
    assert not write_tflite(made.main).floating
    assert np.abs(answered(made.main, feed) - said_by(made.main, feed)).max() <= 2.01 * last_step(made.main)


def test_unsigned_weights_have_no_integer_product_and_are_right_all_the_same(tmp_path: Path) -> None:
    model = nets.conv_net()
    made, feed = quantized(tmp_path, model, scheme="u8u8", per_channel=False), feed_for(model)
    assert set(write_tflite(made.main).floating) >= {"conv2", "head"}
    assert np.abs(answered(made.main, feed) - said_by(made.main, feed)).max() <= 2.01 * last_step(made.main)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [8, 8]}),
        ("Sigmoid", {}),
        ("LeakyRelu", {"alpha": 0.1}),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
    ],
)
def test_an_operator_on_integers(tmp_path: Path, op: str, attributes: dict[str, Any]) -> None:
    net = Net()
    h = net.conv("image", 3, WIDTH, name="stem")
    model = net.head(net.conv(net.add(op, h, name="one", **attributes), WIDTH, WIDTH, name="last", kernel=1), WIDTH)
    made, feed = quantized(tmp_path, model), feed_for(model)
    kinds = dict(operators(write_tflite(made.main).data))
    assert kinds[_KINDS[op, attributes.get("kernel_shape", [0])[0]]] == {"INT8"}
    assert np.abs(answered(made.main, feed) - said_by(made.main, feed)).max() <= 2.01 * last_step(made.main)


_KINDS = {
    ("MaxPool", 3): "MAX_POOL_2D",
    ("AveragePool", 2): "AVERAGE_POOL_2D",
    ("AveragePool", 8): "MEAN",
    ("Sigmoid", 0): "LOGISTIC",
    ("LeakyRelu", 0): "LEAKY_RELU",
    ("Transpose", 0): "TRANSPOSE",
}


def softmax_net(tmp_path: Path, scale: float) -> Artifact:
    """A quantized net whose scores go through a Softmax with a pair of that scale behind it."""
    made = quantized(tmp_path, nets.conv_net())
    model = onnx.load(str(made.main))
    graph = model.graph
    for name, value in (("s", np.float32(scale)), ("z", np.uint8(0))):
        graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    graph.node.append(onnx.helper.make_node("Softmax", [graph.output[0].name], ["p"], name="softmax", axis=1))
    graph.node.append(onnx.helper.make_node("QuantizeLinear", ["p", "s", "z"], ["q"]))
    graph.node.append(onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["shares"]))
    graph.output[0].name = "shares"
    return source(tmp_path / "s", model)


@pytest.mark.parametrize(("scale", "types"), [(1 / 256, {"INT8"}), (1 / 250, {"FLOAT32"})])
def test_a_softmax_is_of_integers_on_the_grid_that_litert_has(tmp_path: Path, scale: float, types: set[str]) -> None:
    made, feed = softmax_net(tmp_path, scale), feed_for(nets.conv_net())
    assert dict(operators(write_tflite(made.main).data))["SOFTMAX"] == types
    assert np.abs(answered(made.main, feed) - said_by(made.main, feed)).max() <= 2.01 * scale


def test_integers_of_sixteen_bits_are_refused(tmp_path: Path) -> None:
    made = softmax_net(tmp_path, 1 / 256)
    model = onnx.load(str(made.main))
    next(one for one in model.graph.initializer if one.name == "z").CopyFrom(
        numpy_helper.from_array(np.array(0, np.uint16), "z")
    )
    path = nets.save(model, tmp_path / "sixteen.onnx")
    with pytest.raises(UnsupportedModel, match=r"\(QuantizeLinear\): its integers are uint16, not of 8 bits"):
        write_tflite(path)


def test_the_numbers_of_a_file_are_those_of_the_specification(tmp_path: Path) -> None:
    """Weights symmetric, per output channel, axis 0 (3 in depthwise ones); biases of 32 bits in the scale of products;
    activations signed, with a zero-point."""
    from ai_edge_litert import schema_py_generated as schema

    written: Written = write_tflite(quantized(tmp_path, nets.depthwise_net()).main)
    graph = schema.ModelT.InitFromPackedBuf(written.data, 0)
    model, codes = graph.subgraphs[0], graph.operatorCodes
    seen = set()
    for one in model.operators:
        kind = codes[one.opcodeIndex].builtinCode
        if kind not in (schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D):
            continue
        seen.add(kind)
        read, weights, bias = (model.tensors[number] for number in one.inputs)
        assert (read.type, weights.type, bias.type) == (
            schema.TensorType.INT8,
            schema.TensorType.INT8,
            schema.TensorType.INT32,
        )
        axis = 3 if kind == schema.BuiltinOperator.DEPTHWISE_CONV_2D else 0
        assert weights.quantization.quantizedDimension == axis
        assert len(weights.quantization.scale) == weights.shape[axis] == len(bias.quantization.scale)
        assert not np.any(weights.quantization.zeroPoint)
        assert not np.any(bias.quantization.zeroPoint)
        np.testing.assert_allclose(
            bias.quantization.scale, read.quantization.scale[0] * weights.quantization.scale, rtol=1e-6
        )
        assert -128 <= read.quantization.zeroPoint[0] <= 127
    assert len(seen) == 2


def test_a_grid_is_known_by_its_numbers() -> None:
    assert Grid(0.5, -128) == Grid(0.5, -128) != Grid(0.5, 0)
