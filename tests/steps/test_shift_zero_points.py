"""Zero-points in biases: no product reads one that could be made good for, and answers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import conv_net, matmul_net, transformer_net
from trials import calibration, run, source

from mlopt.artifact import Artifact
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.shift_zero_points import ShiftZeroPoints

OPENVINO = ("Conv", "Gemm", "MatMul", "Concat", "MaxPool", "AveragePool")


def quantized(tmp_path: Path, model: onnx.ModelProto) -> Artifact:
    step = QuantizeStatic(calibration(tmp_path, model), op_types=OPENVINO, outputs=False)
    return run(step, source(tmp_path / "m", model), tmp_path / "q")


def reference(artifact: Artifact, feed: dict[str, np.ndarray]) -> np.ndarray:
    """What the file says, without a runtime's fusions."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(artifact.main), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def feed_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    value = model.graph.input[0]
    sides = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
    return {value.name: np.random.default_rng(5).standard_normal((4, *sides)).astype(np.float32)}


def alike(one: Artifact, other: Artifact, feed: dict[str, np.ndarray]) -> None:
    """But for values halfway between two integers, of which hardly any turns out the other way."""
    first, second = reference(one, feed), reference(other, feed)
    assert ((first - second) ** 2).sum() < 1e-6 * (first**2).sum()


def zero_points(artifact: Artifact) -> dict[str, tuple[str, int]]:
    """By what a product reads, past its pair: the type and value of its zero-point."""
    graph = onnx.load(str(artifact.main)).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    found = {}
    for node in graph.node:
        pair = makers.get(node.input[0]) if node.op_type in ("MatMul", "Gemm", "Conv") else None
        if pair is not None and pair.op_type == "DequantizeLinear":
            zero = constants[pair.input[2]]
            found[node.name] = (str(zero.dtype), int(zero))
    return found


@pytest.mark.parametrize("model", [transformer_net(), matmul_net()], ids=["activations", "the input, signed"])
def test_no_matrix_product_has_a_zero_point_and_answers_stay(tmp_path: Path, model: onnx.ModelProto) -> None:
    before = quantized(tmp_path, model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    assert set(zero_points(before).values()) - {("uint8", 0)}
    assert set(zero_points(after).values()) == {("uint8", 0)}
    alike(before, after, feed_of(model))


def test_a_gemm_with_integers_for_a_bias_gets_one_in_floating_point(tmp_path: Path) -> None:
    model = transformer_net()
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.eye(256, 10, dtype=np.float32) + 0.1, "head_w"))
    graph.initializer.append(onnx.numpy_helper.from_array(np.arange(10, dtype=np.float32), "head_b"))
    graph.node.append(onnx.helper.make_node("Flatten", ["y"], ["flat"], name="flat"))
    graph.node.append(onnx.helper.make_node("Gemm", ["flat", "head_w", "head_b"], ["scores_"], name="head"))
    graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("scores_", onnx.TensorProto.FLOAT, ["N", 10]))
    before = quantized(tmp_path, model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    assert zero_points(before)["head"] != zero_points(after)["head"] == ("uint8", 0)
    alike(before, after, feed_of(model))


def test_what_something_else_reads_keeps_its_zero_point(tmp_path: Path) -> None:
    model = onnx.load(str(quantized(tmp_path, transformer_net()).main))
    pair = next(node for node in model.graph.node if node.op_type == "DequantizeLinear" and "norm1" in node.output[0])
    model.graph.output.append(onnx.helper.make_tensor_value_info(pair.output[0], onnx.TensorProto.FLOAT, [None] * 3))
    before = source(tmp_path / "watched", model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    kept = {name: zero for name, zero in zero_points(after).items() if zero != ("uint8", 0)}
    assert kept == {name: zero_points(before)[name] for name in ("query", "key", "value")}


@pytest.mark.parametrize("quantize", [True, False], ids=["convolutions", "fp32"])
def test_others_come_out_as_they_went_in(tmp_path: Path, quantize: bool) -> None:
    base = quantized(tmp_path, conv_net(side=16)) if quantize else source(tmp_path / "m", transformer_net())
    assert run(ShiftZeroPoints(), base, tmp_path / "s").digest == base.digest
