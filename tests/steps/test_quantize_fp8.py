"""fp8 pairs: where int8's would stand, in E4M3, with scales that use its range; answers stay near."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.artifact import ONNX, Artifact
from mlopt.engines import ShapeRange
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature_of
from mlopt.step import Step, installed
from mlopt.steps.build_tensorrt_rtx import BuildTensorrtRtx
from mlopt.steps.convert_fp16 import ConvertFp16
from mlopt.steps.quantize_fp8 import QuantizeFp8
from mlopt.store import Store


def made(model: onnx.ModelProto, folder: Path, *more: Step) -> tuple[Artifact, GeneratedSamples]:
    store = Store(folder / "store")
    samples = GeneratedSamples(signature_of(model), 16, 0, {}, 8)
    artifact = store.adopt(nets.save(model, folder / "model.onnx"), ONNX)
    for step in (QuantizeFp8(calibration=samples), *more):  # type: ignore[arg-type]
        artifact = store.run(step, artifact)
    return artifact, samples


def test_pairs_are_e4m3_and_scales_reach_its_largest_number(tmp_path: Path) -> None:
    graph = onnx.load(str(made(nets.conv_net(channels=24, width=32), tmp_path)[0].main)).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {constants[node.input[2]].data_type for node in pairs} == {TensorProto.FLOAT8E4M3FN}
    weights = [node for node in pairs if node.input[0] in constants]
    assert len(weights) == 3
    for node in weights:
        codes = numpy_helper.to_array(constants[node.input[0]]).astype(np.float32)
        assert constants[node.input[0]].data_type == TensorProto.FLOAT8E4M3FN
        assert np.abs(codes).reshape(codes.shape[0], -1).max(axis=1) == pytest.approx(448)
    made_by = {name: node for node in graph.node for name in node.output}
    relu = next(node for node in graph.node if node.op_type == "Relu")
    assert made_by[relu.input[0]].op_type == "Conv"  # nothing stands between, so that the two are one kernel


def test_narrow_and_depthwise_convolutions_stay_and_are_named(tmp_path: Path) -> None:
    """The first has three channels; the second of each block is depthwise."""
    artifact, _ = made(nets.depthwise_net(width=32), tmp_path)
    graph = onnx.load(str(artifact.main)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    paired = [node.name for node in convs if made_by.get(node.input[0]) == "DequantizeLinear"]
    assert paired == ["point1", "point2", "point3"]
    (note,) = notes_in(artifact.main)
    assert note.startswith("4 convolutions stay in floating point (depthwise, narrow or large")
    assert note.endswith("stem, depth1, depth2, depth3")


def test_products_of_activations_and_normalisations_stay_in_floating_point(tmp_path: Path) -> None:
    graph = onnx.load(str(made(nets.transformer_net(), tmp_path)[0].main)).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    for node in graph.node:
        read = {made_by.get(name, "") for name in node.input}
        quantized = "DequantizeLinear" in read
        assert quantized == (node.op_type == "MatMul" and node.name not in ("scores", "mixed")), node.name


@pytest.mark.parametrize("net", [nets.conv_net, nets.transformer_net])
def test_answers_stay_near_in_onnx_runtime(net: object, tmp_path: Path) -> None:
    model = net()  # type: ignore[operator]
    samples = GeneratedSamples(signature_of(model), 16, 0, {}, 8)
    artifact, _ = made(model, tmp_path, ConvertFp16(probe=samples))
    feed = next(iter(samples.feeds(batch=8)))
    with (
        OnnxRuntimeRunner(tmp_path / "model.onnx", threads=1) as before,
        OnnxRuntimeRunner(artifact.main, threads=1) as after,
    ):
        (wanted,), (got,) = before.infer(feed), after.infer(feed)
    noise = ((got - wanted) ** 2).mean() / (wanted**2).mean()
    assert 1e-6 < noise < 0.03  # fp8 rounds to 1/16, and it did round


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
def test_it_compiles_from_8_9_on_and_not_below(tmp_path: Path) -> None:
    shapes = (ShapeRange("image", (1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32)),)
    artifact, _ = made(nets.conv_net(), tmp_path)
    for capability in ("8.9", "12.0"):
        engine = Store(tmp_path / "store").run(BuildTensorrtRtx((capability,), shapes=shapes), artifact)
        assert engine.main.stat().st_size > 100_000
    with pytest.raises(UnsupportedModel, match="fp8_e4m3"):
        Store(tmp_path / "store").run(BuildTensorrtRtx(("8.6",), shapes=shapes), artifact)


def test_a_net_that_gains_nothing_by_it_is_none_of_fp8(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="Nothing gains by fp8"):
        made(narrow_net(), tmp_path)


def narrow_net() -> onnx.ModelProto:
    model = nets.depthwise_net()
    del model.graph.node[-1], model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, ["N", 16]))
    return model


def test_another_scheme_is_refused(tmp_path: Path) -> None:
    samples = GeneratedSamples(signature_of(nets.conv_net()), 4, 0, {}, 8)
    with pytest.raises(ValueError, match="fp8 pairs stand where"):
        QuantizeFp8(calibration=samples, scheme="u8s8")  # type: ignore[arg-type]


def test_what_only_a_branch_or_the_caller_reads_stays(tmp_path: Path) -> None:
    model = onnx.load(str(made(nets.branching_net(), tmp_path)[0].main))
    onnx.checker.check_model(model)
    assert {"up", "down", "told"} <= {tensor.name for tensor in model.graph.initializer}
