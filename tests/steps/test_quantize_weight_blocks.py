"""Weights in blocks of four-bit numbers, as TensorRT reads them; fp4 told to runtimes that have none."""

from __future__ import annotations

from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from mlopt.artifact import ONNX, Artifact
from mlopt.convert.fp4 import with_fp4
from mlopt.engines import ShapeRange
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import attributes_of
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.step import installed
from mlopt.steps.build_tensorrt_rtx import BuildTensorrtRtx
from mlopt.steps.quantize_weight_blocks import QuantizeWeightBlocks
from mlopt.store import Store

FP4 = {0, 0.5, 1, 1.5, 2, 3, 4, 6}


def made(model: onnx.ModelProto, step: QuantizeWeightBlocks, folder: Path) -> Artifact:
    store = Store(folder / "store")
    return store.run(step, store.adopt(nets.save(model, folder / "model.onnx"), ONNX))


def pairs(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for node in graph.node if node.op_type == "DequantizeLinear"]


def test_int4_lies_in_blocks_along_k_with_a_scale_each(tmp_path: Path) -> None:
    model = onnx.load(str(made(nets.matmul_net(width=64), QuantizeWeightBlocks(block_size=32), tmp_path).main))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    found = pairs(model.graph)
    assert len(found) == 2
    for node, columns in zip(found, (64, 10), strict=True):
        said = attributes_of(node)
        assert (said["axis"], said["block_size"]) == (0, 32)
        assert held[node.input[0]].data_type == TensorProto.INT4
        assert list(held[node.input[0]].dims) == [64, columns]
        assert list(held[node.input[1]].dims) == [2, columns]
        assert (numpy_helper.to_array(held[node.input[1]]) > 0).all()
    assert model.opset_import[0].version >= 21


@pytest.mark.parametrize(("precision", "block", "most"), [("int4", 32, 0.02), ("fp4", 16, 0.02)])
def test_answers_stay_near_in_onnx_runtime(precision: str, block: int, most: float, tmp_path: Path) -> None:
    step = QuantizeWeightBlocks(precision=precision, block_size=block)  # type: ignore[arg-type]
    artifact = made(nets.matmul_net(), step, tmp_path)
    feed = {"x": np.random.default_rng(0).standard_normal((32, 64)).astype(np.float32)}
    with (
        OnnxRuntimeRunner(tmp_path / "model.onnx", threads=1) as before,
        OnnxRuntimeRunner(artifact.main, threads=1) as after,
    ):
        (wanted,), (got,) = before.infer(feed), after.infer(feed)
    assert 1e-5 < ((got - wanted) ** 2).mean() / (wanted**2).mean() < most


def test_a_gemm_is_quantized_and_a_weight_of_broken_blocks_is_left(tmp_path: Path) -> None:
    artifact = made(nets.conv_net(width=32), QuantizeWeightBlocks(block_size=16), tmp_path)
    assert len(pairs(onnx.load(str(artifact.main)).graph)) == 1
    with pytest.raises(UnsupportedModel, match="No matrix product has a constant weight of whole blocks of 128"):
        made(nets.conv_net(width=32), QuantizeWeightBlocks(), tmp_path / "other")


def test_a_block_of_zeros_stays_zero(tmp_path: Path) -> None:
    model = nets.matmul_net()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.zeros((64, 64), np.float32), "w1"))
    graph = onnx.load(str(made(model, QuantizeWeightBlocks(block_size=32), tmp_path).main)).graph
    codes = next(tensor for tensor in graph.initializer if tensor.name == "w1_int4")
    assert not numpy_helper.to_array(codes).astype(np.int8).any()


def test_fp4_is_the_same_numbers_in_e2m1(tmp_path: Path) -> None:
    step = QuantizeWeightBlocks(precision="fp4", block_size=16)
    plain = onnx.load(str(made(nets.matmul_net(), step, tmp_path).main))
    handed = with_fp4(plain)

    def weights(model: onnx.ModelProto) -> list[np.ndarray]:
        held = {tensor.name: tensor for tensor in model.graph.initializer}
        return [
            numpy_helper.to_array(held[node.input[0]]).astype(np.float32)
            * np.repeat(numpy_helper.to_array(held[node.input[1]]), 16, axis=0)
            for node in pairs(model.graph)
        ]

    for one, other in zip(weights(plain), weights(handed), strict=True):
        np.testing.assert_array_equal(one, other)
    held = {tensor.name: tensor for tensor in handed.graph.initializer}
    for node in pairs(handed.graph):
        assert held[node.input[0]].data_type == TensorProto.FLOAT4E2M1
        assert set(np.abs(numpy_helper.to_array(held[node.input[0]]).astype(np.float32)).ravel()) <= FP4
    assert handed.opset_import[0].version == 23


def test_numbers_that_are_no_fp4_are_refused(tmp_path: Path) -> None:
    step = QuantizeWeightBlocks(precision="fp4", block_size=16)
    model = onnx.load(str(made(nets.matmul_net(), step, tmp_path).main))
    tensor = next(one for one in model.graph.initializer if one.name == "w1_fp4")
    tensor.CopyFrom(numpy_helper.from_array(np.full((64, 64), 5, np.int8), "w1_fp4"))
    with pytest.raises(UnsupportedModel, match="'w1_fp4' holds 5, which is twice no number of fp4"):
        with_fp4(model)
    with pytest.raises(UnsupportedModel, match="no weight in blocks"):
        with_fp4(nets.matmul_net())


@pytest.mark.parametrize(
    ("options", "match"), [({"precision": "int3"}, "int3"), ({"block_size": 24}, "multiple of 16")]
)
def test_a_value_that_it_cannot_be_set_to_is_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        QuantizeWeightBlocks(**options)  # type: ignore[arg-type]


@pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")
@pytest.mark.parametrize(("precision", "block", "least"), [("int4", 64, "8.0"), ("fp4", 16, "12.0")])
def test_the_compiler_takes_it_from_its_gpu_on(precision: str, block: int, least: str, tmp_path: Path) -> None:
    """A real engine, smaller than that of the weights as they were; refused for the GPU before."""
    step = QuantizeWeightBlocks(precision=precision, block_size=block)  # type: ignore[arg-type]
    model = nets.matmul_net(width=1024)
    artifact, store = made(model, step, tmp_path), Store(tmp_path / "store")
    shapes = (ShapeRange("x", (1, 1024), (1, 1024), (8, 1024)),)
    options = {"shapes": shapes, "fp4": precision == "fp4"}
    engine = store.run(BuildTensorrtRtx((least,), **options), artifact)  # type: ignore[arg-type]
    whole = store.run(
        BuildTensorrtRtx((least,), shapes=shapes), store.adopt(nets.save(model, tmp_path / "m.onnx"), ONNX)
    )
    assert engine.main.stat().st_size < 0.6 * whole.main.stat().st_size
    with pytest.raises(UnsupportedModel, match="HW-specific datatypes" if precision == "fp4" else "int4|HW-specific"):
        store.run(BuildTensorrtRtx(("8.9" if precision == "fp4" else "7.5",), **options), artifact)  # type: ignore[arg-type]


def test_what_only_a_branch_or_the_caller_reads_stays(tmp_path: Path) -> None:
    artifact = made(nets.branching_net(), QuantizeWeightBlocks(block_size=32), tmp_path)
    assert len(pairs(onnx.load(str(artifact.main)).graph)) == 2
    with OnnxRuntimeRunner(artifact.main, threads=1) as runner:
        assert [value.shape for value in runner.infer({"x": np.ones((2, 64), np.float32)})] == [(2, 10), (3,)]
