"""Pairs moved and dropped where integers are handed on: fewer of them, and the same answers to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import conv_net, fire_net
from trials import calibration, run, source

from mlopt.artifact import Artifact
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.tidy_pairs import TidyPairs

FEED = {"image": np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)}
OPENVINO = ("Conv", "Gemm", "MatMul", "Concat", "MaxPool", "AveragePool")


def quantized(tmp_path: Path, model: onnx.ModelProto, **options: object) -> Artifact:
    settings = {"op_types": OPENVINO, "outputs": False, **options}
    step: Calibrated = QuantizeStatic(calibration(tmp_path, model), **settings)  # type: ignore[arg-type]
    return run(step, source(tmp_path / "m", model), tmp_path / "q")


def reference(artifact: Artifact) -> np.ndarray:
    """What the file says, without a runtime's fusions: all rounding where the pairs are."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(artifact.main), options, providers=["CPUExecutionProvider"])
    return session.run(None, FEED)[0]


def graph_of(artifact: Artifact) -> onnx.GraphProto:
    return onnx.load(str(artifact.main)).graph


def written_by(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if name in node.output)


def count(graph: onnx.GraphProto, kind: str) -> int:
    return sum(node.op_type == kind for node in graph.node)


def test_poolings_and_concatenations_hand_integers_on(tmp_path: Path) -> None:
    before = quantized(tmp_path, fire_net())
    after = run(TidyPairs(), before, tmp_path / "t")
    graph = graph_of(after)
    pools = [node for node in graph.node if node.op_type == "MaxPool"]
    assert written_by(graph, pools[0].input[0]).op_type == "DequantizeLinear", "the pair is before the pooling"
    assert written_by(graph, pools[1].input[0]).op_type == "Concat"
    for pool in pools:
        assert [node.op_type for node in graph.node if pool.output[0] in node.input] == ["Conv"]
    assert count(graph, "QuantizeLinear") < count(graph_of(before), "QuantizeLinear")
    np.testing.assert_array_equal(reference(after), reference(before))


def test_inputs_of_other_scales_keep_their_conversion(tmp_path: Path) -> None:
    before = quantized(tmp_path, fire_net(), outputs=True)  # ranges are not shared for ONNX Runtime, which requantizes
    after = run(TidyPairs(), before, tmp_path / "t")
    graph = graph_of(after)
    joined = next(node for node in graph.node if node.op_type == "Concat")
    assert [node.op_type for node in graph.node if joined.output[0] in node.input] == ["QuantizeLinear"]
    np.testing.assert_array_equal(reference(after), reference(before))


def test_a_pooling_that_something_else_reads_stays(tmp_path: Path) -> None:
    model = onnx.load(str(quantized(tmp_path, fire_net()).main))
    first = next(node for node in model.graph.node if node.op_type == "MaxPool")
    model.graph.output.append(onnx.helper.make_tensor_value_info(first.output[0], onnx.TensorProto.FLOAT, [None] * 4))
    before = source(tmp_path / "watched", model)
    after = run(TidyPairs(), before, tmp_path / "t")
    graph = graph_of(after)
    assert written_by(graph, written_by(graph, first.output[0]).input[0]).op_type == "Relu"
    np.testing.assert_array_equal(reference(after), reference(before))


@pytest.mark.parametrize("quantize", [True, False], ids=["int8", "fp32"])
def test_others_come_out_as_they_went_in(tmp_path: Path, quantize: bool) -> None:
    base = quantized(tmp_path, conv_net(side=16)) if quantize else source(tmp_path / "m", fire_net())
    assert run(TidyPairs(), base, tmp_path / "t").digest == base.digest
