"""Real engines by TensorRT for RTX, on machines without a GPU; what it refuses is one plain error."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import onnx
import pytest
import typed_nets

from mlopt.artifact import ENGINE, ONNX, Artifact
from mlopt.engines import RTX_CAPABILITIES, ShapeRange, shape_ranges
from mlopt.errors import ExportFailed, UnsupportedModel
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature
from mlopt.step import installed
from mlopt.steps.build_tensorrt_rtx import BuildTensorrtRtx
from mlopt.steps.quantize_fp8 import QuantizeFp8
from mlopt.store import Store
from mlopt.target import Target, find_target, target_names

pytestmark = pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")

PICTURES = (ShapeRange("image", (1, 3, 32, 32), (1, 3, 32, 32), (8, 3, 32, 32)),)


def adopted(model: onnx.ModelProto, folder: Path) -> Artifact:
    return Store(folder / "adopting").adopt(nets.save(model, folder / "model.onnx"), ONNX)


def built(model: onnx.ModelProto, step: BuildTensorrtRtx, folder: Path) -> Artifact:
    return Store(folder / "store").run(step, adopted(model, folder))


def test_an_engine_is_made_once_and_says_what_it_is(tmp_path: Path) -> None:
    step = BuildTensorrtRtx(("8.9",), shapes=PICTURES)
    first, second = (built(nets.conv_net(), step, tmp_path) for _ in range(2))
    assert first.format == ENGINE
    assert first == second
    assert first.main.stat().st_size > 100_000
    facts = json.loads((first.path / "engine.json").read_bytes())
    assert facts["state"] == "built, not run"
    assert facts["compute-capabilities"] == ["8.9"]
    assert facts["compiler"] == f"TensorRT for RTX {installed('tensorrt-rtx')}"
    assert facts["made-from"] == f"sha256:{adopted(nets.conv_net(), tmp_path).digest}"


def test_an_engine_is_the_same_bytes_in_any_store_folder_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = adopted(nets.mobile_net(), tmp_path)
    facts = signature(exported)
    step = QuantizeFp8(calibration=GeneratedSamples(facts, 16, 0, {}, 8))
    typed = Store(tmp_path / "typed").run(step, exported)
    digests = []
    for number in range(4):
        place = tmp_path / ("x" * (1 + 60 * number))
        place.mkdir()
        monkeypatch.chdir(place)
        monkeypatch.setenv("SOMETHING", "x" * 1000 * number)
        monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.tcache_count={number}")
        engine = Store(place / "store").run(BuildTensorrtRtx(("8.9",), shapes=shape_ranges(facts, {}, 8)), typed)
        digests.append(engine.digest)
    assert len(set(digests)) == 1


def test_one_engine_for_several_gpus_is_hardly_larger_than_for_one(tmp_path: Path) -> None:
    one = built(typed_nets.product(onnx.TensorProto.FLOAT16), BuildTensorrtRtx(("8.9",)), tmp_path / "one")
    fleet = built(
        typed_nets.product(onnx.TensorProto.FLOAT16), BuildTensorrtRtx(("8.0", "8.6", "8.9", "12.0")), tmp_path / "all"
    )
    assert one.digest != fleet.digest
    assert fleet.main.stat().st_size < 1.2 * one.main.stat().st_size


def test_the_list_of_compute_capabilities_is_the_compilers_own() -> None:
    import tensorrt_rtx as trt

    named = {name.removeprefix("SM") for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert named == {capability.replace(".", "") for capability in RTX_CAPABILITIES}


def gpus() -> dict[str, Target]:
    """One target for every compute capability that the compiler serves."""
    found = (find_target(name) for name in target_names())
    return {
        one.gpu.compute_capability: one for one in found if one.gpu and one.gpu.compute_capability in RTX_CAPABILITIES
    }


def test_a_target_is_declared_for_every_compute_capability_that_the_compiler_serves() -> None:
    assert sorted(gpus()) == sorted(RTX_CAPABILITIES)


@pytest.mark.parametrize("precision", typed_nets.PRECISIONS)
@pytest.mark.parametrize("capability", RTX_CAPABILITIES)
def test_precisions_of_the_targets_are_those_that_compile(precision: str, capability: str, tmp_path: Path) -> None:
    target = gpus()[capability]
    assert target.gpu
    model, step = typed_nets.PRECISIONS[precision](), BuildTensorrtRtx((capability,))
    if precision in target.gpu.precisions:
        assert built(model, step, tmp_path).main.stat().st_size > 10_000
        return
    with pytest.raises(UnsupportedModel, match="HW-specific datatypes") as caught:
        built(model, step, tmp_path)
    assert f"for compute capability {capability}: Cannot compile for target(s) sm" in caught.value.what
    assert "/_src/" not in caught.value.what
    assert "mlopt targets show" in caught.value.next


def test_fp32_matrix_products_for_turing_are_refused_with_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="FP32 GEMM is not supported") as caught:
        built(nets.conv_net(), BuildTensorrtRtx(("7.5",), shapes=PICTURES), tmp_path)
    assert "operation 'head'" in caught.value.what
    assert "--recipe rtx-fp16" in caught.value.next


def test_free_dimensions_without_a_range_are_refused_with_the_key_to_write(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="no optimization profile") as caught:
        built(nets.conv_net(), BuildTensorrtRtx(("8.9",)), tmp_path)
    assert "[inputs.NAME] in mlopt.toml" in caught.value.next


def test_an_operator_that_it_does_not_know_is_named_with_its_node(tmp_path: Path) -> None:
    model = nets.matmul_net()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Swoosh", "example"
    model.opset_import.append(onnx.helper.make_opsetid("example", 1))
    with pytest.raises(UnsupportedModel, match="does not read node 'relu' \\(Swoosh\\)"):
        built(model, BuildTensorrtRtx(("8.9",)), tmp_path)


def test_every_operator_that_it_does_not_know_is_named(tmp_path: Path) -> None:
    model = nets.transformer_net()
    for node in model.graph.node:
        if node.op_type in ("Relu", "Softmax"):
            node.op_type, node.domain = "Swoosh", "example"
    model.opset_import.append(onnx.helper.make_opsetid("example", 1))
    with pytest.raises(
        UnsupportedModel, match=r"does not read node 'attention' \(Swoosh\).*; nor node 'relu' \(Swoosh\)"
    ):
        built(model, BuildTensorrtRtx(("8.9",)), tmp_path)


def test_a_failed_build_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel):
        built(nets.conv_net(), BuildTensorrtRtx(("7.5",), shapes=PICTURES), tmp_path)
    assert not list((tmp_path / "store" / "results").glob("*"))
    assert not list((tmp_path / "store" / "scratch").glob("*"))


def test_a_compiler_that_is_stopped_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPT_CONVERT_SECONDS", "0.01")
    with pytest.raises(ExportFailed, match="tensorrt_rtx converter was stopped"):
        built(nets.conv_net(), BuildTensorrtRtx(("8.9",), shapes=PICTURES), tmp_path)


@pytest.mark.parametrize("capabilities", [(), ("9.0",), ("8.9", "sm90")])
def test_a_compute_capability_that_it_does_not_serve_is_refused_before_it_starts(capabilities: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"some of 7\.5, 8\.0"):
        BuildTensorrtRtx(capabilities)
