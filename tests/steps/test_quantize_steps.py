"""Quantizing steps: real models get smaller, stay close, run in ONNX Runtime, and give the same bytes twice."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from nets import conv_net, masked_net, matmul_net
from trials import answers, calibration, probe, run, source, sqnr

from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.repair.pairs import overflowing
from mlopt.serve.runtimes import RUNTIMES
from mlopt.steps.convert_fp16 import ConvertFp16
from mlopt.steps.optimize_graph import OptimizeGraph
from mlopt.steps.quantize_dynamic import QuantizeDynamic
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.quantize_weights_int4 import QuantizeWeightsInt4
from mlopt.steps.raise_opset import RaiseOpset
from mlopt.steps.ranges import Calibrator

STATIC = {
    "u8s8": 20.0,
    "u8s8-paired": 18.0,
    "s8s8": 20.0,
    "u8u8": 20.0,
}


@pytest.mark.parametrize(("scheme", "least"), STATIC.items())
def test_static(tmp_path: Path, scheme: str, least: float) -> None:
    model = conv_net(width=32)
    base = source(tmp_path / "m", model)
    step = QuantizeStatic(calibration(tmp_path, model), scheme=scheme)  # type: ignore[arg-type]
    made = run(step, base, tmp_path / "q")
    graph = onnx.load(str(made.main)).graph
    assert any(node.op_type == "QuantizeLinear" for node in graph.node)
    assert made.bytes < 0.6 * base.bytes
    feed = {"image": np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32)}
    assert sqnr(answers(base, feed), answers(made, feed)) > least
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    quantized = [array for array in weights.values() if array.dtype in (np.int8, np.uint8) and array.ndim == 4]
    assert quantized
    assert bool(overflowing(graph)) == (scheme in ("u8s8", "s8s8"))
    if scheme != "u8u8":
        assert all(np.abs(array.astype(int)).max() > 64 for array in quantized), "more than seven bits"
    scales = [array for name, array in weights.items() if "w2" in name and "scale" in name]
    assert scales
    assert scales[0].shape == (32,), "one scale per output channel"


def test_static_gives_the_same_bytes(tmp_path: Path) -> None:
    model = conv_net()
    base = source(tmp_path / "m", model)
    samples = calibration(tmp_path, model)
    for calibrator in get_args(Calibrator):
        step = QuantizeStatic(samples, calibrator=calibrator)
        one, two = (run(step, base, tmp_path / f"{calibrator}{number}") for number in range(2))
        assert one.digest == two.digest


def test_static_refuses_broken_samples_and_quantized_models(tmp_path: Path) -> None:
    model = conv_net()
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match=r"sample number \d+ leads to NaN or infinity at input 'image'"):
        run(QuantizeStatic(calibration(tmp_path, model, broken=True)), base, tmp_path / "q")
    samples = calibration(tmp_path, model)
    once = run(QuantizeStatic(samples), base, tmp_path / "once")
    with pytest.raises(UnsupportedModel, match="quantized already"):
        run(QuantizeStatic(samples), once, tmp_path / "twice")


def test_dynamic_and_int4(tmp_path: Path) -> None:
    base = source(tmp_path / "m", matmul_net(width=256))
    feed = {"x": np.random.default_rng(1).standard_normal((4, 256)).astype(np.float32)}
    truth = answers(base, feed)
    for scheme, overflows in (("u8s8", True), ("u8s8-paired", False)):
        dynamic = run(QuantizeDynamic(scheme=scheme), base, tmp_path / scheme)  # type: ignore[arg-type]
        assert dynamic.bytes < 0.35 * base.bytes
        assert sqnr(truth, answers(dynamic, feed)) > 30
        assert bool(overflowing(onnx.load(str(dynamic.main)).graph)) == overflows
    int4 = run(QuantizeWeightsInt4(), base, tmp_path / "w")
    assert int4.bytes < 0.2 * base.bytes
    assert sqnr(truth, answers(int4, feed)) > 12


def test_dynamic_leaves_convolutions_beside_products_alone(tmp_path: Path) -> None:
    base = source(tmp_path / "m", conv_net(width=64))
    made = run(QuantizeDynamic(scheme="u8s8-paired"), base, tmp_path / "d")
    types = [node.op_type for node in onnx.load(str(made.main)).graph.node]
    assert types.count("Conv") == 2
    assert "MatMulInteger" in types


def test_int4_takes_gemm_too(tmp_path: Path) -> None:
    base = source(tmp_path / "m", conv_net(width=64))
    made = run(QuantizeWeightsInt4(), base, tmp_path / "w")
    types = [node.op_type for node in onnx.load(str(made.main)).graph.node]
    assert "MatMulNBits" in types
    assert "Gemm" not in types
    feed = {"image": np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32)}
    assert sqnr(answers(base, feed), answers(made, feed)) > 12


def test_nothing_to_quantize_is_said(tmp_path: Path) -> None:
    model = conv_net()
    del model.graph.node[-2:]
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, ["N", 16, 1, 1]))
    base = source(tmp_path / "m", model)
    for step in (QuantizeDynamic(), QuantizeWeightsInt4()):
        with pytest.raises(UnsupportedModel, match="nothing to"):
            run(step, base, tmp_path / step.name)


def test_fp16_keeps_what_would_overflow(tmp_path: Path) -> None:
    model = conv_net()
    for tensor in model.graph.initializer:
        if tensor.name == "b1":  # activations near 60000: half precision would lose them at its limit
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(16, 6e4, np.float32), "b1"))
        if tensor.name == "w2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 16, 3, 3), 1e-2, np.float32), "w2"))
    base = source(tmp_path / "m", model)
    feed = {"image": np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    made = run(ConvertFp16(probe(model)), base, tmp_path / "h")
    graph = onnx.load(str(made.main)).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["w1"] == onnx.TensorProto.FLOAT, "conv1's output reaches 60000"
    assert np.isfinite(answers(made, feed)).all()
    plain = run(ConvertFp16(probe(conv_net())), source(tmp_path / "p", conv_net()), tmp_path / "hp")
    assert plain.bytes < 0.62 * source(tmp_path / "p2", conv_net()).bytes
    assert sqnr(answers(source(tmp_path / "p3", conv_net()), feed), answers(plain, feed)) > 45


def test_fp16_of_what_is_cast_from_integers(tmp_path: Path) -> None:
    base = source(tmp_path / "m", masked_net())
    made = run(ConvertFp16(probe(masked_net())), base, tmp_path / "h")
    x = np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)
    feed = {"mask": np.array([[1, 1, 0, 0], [1, 0, 1, 0]]), "x": x}
    np.testing.assert_allclose(answers(made, feed), answers(base, feed), rtol=2e-3)
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(str(made.main)).graph.initializer}
    assert kinds == dict.fromkeys(("one", "far"), onnx.TensorProto.FLOAT16)


def test_halves_between_integers_are_run_as_they_are_written(tmp_path: Path) -> None:
    """A bias of more than 65504 steps, for its weights are small: ONNX Runtime would count those in half precision."""
    model = conv_net()
    for tensor in model.graph.initializer:
        if tensor.name == "w1":
            weights = onnx.numpy_helper.to_array(tensor) * np.float32([1e-4] * 8 + [1] * 8)[:, None, None, None]
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, "w1"))
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(16, np.float32), "b1"))
    base = source(tmp_path / "m", model)
    feed = {"image": np.random.default_rng(1).standard_normal((4, 3, 32, 32)).astype(np.float32)}
    raised = run(RaiseOpset(19), base, tmp_path / "raised")
    assert onnx.load(str(raised.main)).opset_import[0].version == 19
    pairs = run(QuantizeStatic(calibration(tmp_path, model), scheme="s8s8-tensorrt"), raised, tmp_path / "q")
    half = run(ConvertFp16(probe(model)), pairs, tmp_path / "h")
    assert sqnr(answers(base, feed), answers(half, feed)) > 25
    served = RUNTIMES["onnxruntime"](half.main, threads=1)
    np.testing.assert_array_equal(served(["logits"], feed)[0], answers(half, feed))


def test_an_opset_that_a_node_cannot_be_raised_to_is_said(tmp_path: Path) -> None:
    base = source(tmp_path / "m", conv_net())
    with pytest.raises(UnsupportedModel, match="conversion to opset 999 failed"):
        run(RaiseOpset(999), base, tmp_path / "raised")


def test_optimize_graph_keeps_meaning(tmp_path: Path) -> None:
    base = source(tmp_path / "m", conv_net())
    feed = {"image": np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float32)}
    for level in ("basic", "extended"):
        made = run(OptimizeGraph(level=level), base, tmp_path / level)  # type: ignore[arg-type]
        assert np.allclose(answers(base, feed), answers(made, feed), atol=1e-5)
    assert len(onnx.load(str(made.main)).graph.node) < len(onnx.load(str(base.main)).graph.node)
