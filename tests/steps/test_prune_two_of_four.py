"""2:4 sparsity as a step: zeros that the steps after it keep, what is named, and what a person reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, depthwise_net, transformer_net
from trials import answers, calibration, probe, run, source, sqnr

from mlopt.artifact import Artifact
from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.prune.sparsity import sparsity_of
from mlopt.steps.convert_fp16 import ConvertFp16
from mlopt.steps.optimize_graph import OptimizeGraph
from mlopt.steps.pack_tensorrt_build import PackTensorrtBuild
from mlopt.steps.prune_two_of_four import PruneTwoOfFour
from mlopt.steps.quantize_static import QuantizeStatic


def patterns(artifact: Artifact) -> int:
    return sparsity_of(onnx.load(str(artifact.main))).of_four


def feed(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return {"image": np.random.default_rng(7).standard_normal((8, *shape)).astype(np.float32)}


def test_two_of_four_go_what_cannot_is_named_and_int8_keeps_the_zeros(tmp_path: Path) -> None:
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    sparse = run(PruneTwoOfFour(some), base, tmp_path / "sparse")
    held = patterns(sparse)
    assert held > 0
    said = " ".join(notes_in(sparse.main))
    assert f"two of each four weights are zero in {held} of {held + 1} layers" in said
    assert "(3 inputs are no multiple of 16)" in said
    exact, found = (answers(one, feed(model)) for one in (base, sparse))
    assert sqnr(exact, found) > 5
    int8 = run(QuantizeStatic(some, scheme="s8s8-tensorrt", calibrator="entropy"), sparse, tmp_path / "int8")
    half = run(ConvertFp16(keep_io=True, probe=probe(model)), sparse, tmp_path / "half")
    assert patterns(int8) == patterns(half) == held
    assert sqnr(found, answers(int8, feed(model))) > 20
    packed = tmp_path / "packed"
    packed.mkdir()
    PackTensorrtBuild(sparse=True).run(int8, packed)


def test_what_is_quantized_for_tensorrt_already_can_be_handed_on(tmp_path: Path) -> None:
    """As by nvidia-modelopt: an engine of it takes recipe tensorrt-fp32, which must add no integers of its own."""
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    int8 = run(QuantizeStatic(some, scheme="s8s8-tensorrt"), base, tmp_path / "int8")
    again = onnx.load(str(run(OptimizeGraph("basic"), int8, tmp_path / "again").main))
    kinds = {tensor.name: tensor.data_type for tensor in again.graph.initializer}
    read = [kinds.get(node.input[0]) for node in again.graph.node if node.op_type == "DequantizeLinear"]
    assert onnx.TensorProto.INT8 in read
    assert onnx.TensorProto.INT32 not in read


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    assert len({run(PruneTwoOfFour(some), base, tmp_path / name).digest for name in "ab"}) == 1


def test_products_of_a_transformer_too(tmp_path: Path) -> None:
    model = transformer_net()
    base = source(tmp_path / "m", model)
    sparse = run(PruneTwoOfFour(calibration(tmp_path, model)), base, tmp_path / "sparse")
    assert patterns(sparse) >= 4


def test_an_engine_without_the_pattern_is_refused_as_sparse(tmp_path: Path) -> None:
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    (tmp_path / "packed").mkdir()
    with pytest.raises(UnsupportedModel, match="nothing for sparse kernels") as caught:
        PackTensorrtBuild(sparse=True).run(base, tmp_path / "packed")
    assert "prune-two-of-four" in caught.value.next
    sparse = run(PruneTwoOfFour(some), base, tmp_path / "sparse")
    mended = run(QuantizeStatic(some, scheme="s8s8-tensorrt", repair=True), sparse, tmp_path / "mended")
    assert patterns(mended) < patterns(sparse)  # why the recipes have no repair


def test_a_model_in_which_nothing_can_be_counted_in_fours(tmp_path: Path) -> None:
    model = depthwise_net()
    base = source(tmp_path / "m", model)
    step = PruneTwoOfFour(calibration(tmp_path, model), multiple=1024)
    with pytest.raises(
        UnsupportedModel, match=r"No layer can have two of each four weights zero: .*no multiple of 1024"
    ):
        run(step, base, tmp_path / "sparse")


def test_a_broken_sample_is_named(tmp_path: Path) -> None:
    model = conv_net()
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match="leads to NaN or infinity"):
        run(PruneTwoOfFour(calibration(tmp_path, model, broken=True)), base, tmp_path / "sparse")


@pytest.mark.parametrize("options", [{"multiple": 6}, {"multiple": 0}, {"fewest_weights": -1}, {"samples": 0}])
def test_options_that_mean_nothing_are_refused(options: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must"):
        PruneTwoOfFour(calibration(tmp_path, conv_net()), **options)
