"""`mlopt compile` for NVIDIA cards: engines that were built and never run lie in the bundle, and the report says so."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import nets
import pytest
import walks
from onnx import version_converter

from mlopt.step import installed

pytestmark = pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    model = nets.save(version_converter.convert_version(nets.conv_net(), 20), folder / "net.onnx")
    walks.labelled(folder / "samples.npz", model)
    walks.profile(folder)
    return folder


def compiled(place: Path, target: str, *recipes: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    flags = [flag for name in recipes for flag in ("--recipe", name)]
    ended = walks.mlopt(
        *("compile", "net.onnx", "-p", "./fast.toml", "--no-image", "--target", target, "-o", "out", *flags),
        *("--samples", "samples.npz"),
        cwd=place,
        env={"MLOPT_CACHE_DIR": str(place / "store")},
    )
    assert ended.returncode == 0, ended.stderr
    return place / "out" / "net" / target, ended


def candidates(bundle: Path) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in json.loads((bundle / "report.json").read_bytes())["candidates"]}


def test_every_engine_is_in_the_bundle_with_its_digest_and_none_is_called_measured(place: Path) -> None:
    recipes = ("rtx-fp32", "rtx-fp16", "rtx-int8", "rtx-int8-fp16", "rtx-fp8")
    bundle, ended = compiled(place, "rtx4090", *recipes)
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    assert set(manifest["engines"]) == set(recipes)
    for name, engine in manifest["engines"].items():
        file = bundle / engine["file"]
        assert hashlib.sha256(file.read_bytes()).hexdigest() == engine["sha256"]
        assert manifest["files"][engine["file"]]["sha256"] == engine["sha256"]
        assert engine["compute-capabilities"] == ["8.9"]
        assert engine["state"] == "built, not run"
        assert f"{name}: engines/{name}/model.engine" in ended.stdout
    assert "and not run" in ended.stdout
    assert manifest["winner"]["recipe"] == "baseline"
    assert manifest["status"] == "unmeasured"
    for name, one in candidates(bundle).items():
        assert one["measurement"] is None
        assert one["accuracy"]["grade"] == "estimated"
        assert name == "baseline" or "unmeasured" in one["why_not"]


def test_a_precision_that_the_card_lacks_is_left_out_with_its_reason(place: Path) -> None:
    bundle, _ = compiled(place, "rtx3090", "rtx-fp16", "rtx-fp8", "rtx-fp4-weights")
    left_out = {one["recipe"]: one["reason"] for one in json.loads((bundle / "report.json").read_bytes())["left_out"]}
    assert left_out["rtx-fp8"] == "compute capability 8.6 has no fp8"
    assert left_out["rtx-fp4-weights"] == "compute capability 8.6 has no fp4"


def test_a_second_run_compiles_nothing_again(place: Path) -> None:
    compiled(place, "rtx3090", "rtx-fp16")
    bundle, _ = compiled(place, "rtx3090", "rtx-fp16")
    steps = {one["step"]: one for one in json.loads((bundle / "report.json").read_bytes())["steps"]}
    assert steps["build-tensorrt-rtx"]["cached"] is True


def test_what_the_compiler_refuses_is_a_reason_and_the_others_are_there(place: Path) -> None:
    bundle, _ = compiled(place, "t4", "rtx-fp32", "rtx-int8", "rtx-int8-fp16")
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    assert set(manifest["engines"]) == {"rtx-int8-fp16"}
    assert manifest["status"] == "needs-device-build"
    notes = json.loads((bundle / "report.json").read_bytes())["notes"]
    assert any("NVIDIA names RTX cards alone" in note for note in notes)
    assert any("NVIDIA's licence of TensorRT applies to its engines" in note for note in notes)
    found = candidates(bundle)
    for name in ("rtx-fp32", "rtx-int8"):
        assert "FP32 GEMM is not supported" in found[name]["failure"]
    assert not (bundle / "engines" / "rtx-fp32").exists()


def test_int8_for_tensorrt_is_symmetric_has_no_quantized_bias_and_keeps_its_answers(place: Path) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper

    ended = walks.mlopt(
        *("quantize", "net.onnx", "--recipe", "rtx-int8", "--target", "rtx4090"),
        *("--samples", "samples.npz", "-o", "quantized"),
        cwd=place,
        env={"MLOPT_CACHE_DIR": str(place / "store")},
    )
    assert ended.returncode == 0, ended.stderr
    graph = onnx.load(str(place / "quantized" / "net" / "rtx4090" / "model" / "model.onnx")).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        zero = constants[node.input[2]]
        assert zero.dtype == np.int8
        assert not zero.any()
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert made_by[node.input[0]].op_type == made_by[node.input[1]].op_type == "DequantizeLinear"
            assert node.input[2] in constants
    relu = next(node for node in graph.node if node.op_type == "Relu")
    assert made_by[relu.input[0]].op_type == "Conv"  # nothing stands between, so that the two are one kernel
