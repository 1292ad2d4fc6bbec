"""What is refused before anything goes to a device: each one finding, with its node and the nearest fix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nets
import onnx
import pytest
import typed_nets
from onnx import TensorProto, helper, version_converter

from mlopt.artifact import ONNX
from mlopt.errors import Misused
from mlopt.preflight.finding import Finding
from mlopt.preflight.preflight import Preflight, notes, preflight, stack_of, stand_in
from mlopt.signature import InputSpec
from mlopt.step import installed
from mlopt.store import Store
from mlopt.target import find_target

compiler = pytest.mark.skipif(installed("tensorrt-rtx") is None, reason="needs the extra [tensorrt] (x86-64)")


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Preflight]:
    def ask(model: onnx.ModelProto, target: str = "jetson", jetpack: str | None = None, **more: object) -> Preflight:
        store = Store(tmp_path / "store")
        found = find_target(target)
        artifact = store.adopt(nets.save(model, tmp_path / "model.onnx"), ONNX)
        options = {"inputs": {}, **more}
        return preflight(artifact, found, stack_of(found, jetpack), store, **options)  # type: ignore[arg-type]

    return ask


def one(found: Preflight) -> tuple[str, str, str]:
    (finding,) = found.refused
    return finding.what, finding.where, finding.next


def single(op_type: str, kind: int = TensorProto.FLOAT, *, domain: str = "", opset: int = 17) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    node = helper.make_node(op_type, ["x"], ["y"], name="it", domain=domain)
    graph = helper.make_graph([node], "g", [value("x", kind, [1, 4])], [value("y", kind, [1, 4])])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def test_a_model_that_fits_has_no_findings_and_says_what_was_asked(asked: Callable[..., Preflight]) -> None:
    found = asked(nets.conv_net())
    assert found.findings == ()
    assert "TensorRT 10.3.0 of JetPack 6.2 and compute capability 8.7" in found.facts[0]
    assert found.facts[1].startswith("memory: weights 11.8 kB")


@pytest.mark.parametrize(
    ("precision", "target", "what", "next"),
    [
        ("fp8", "jetson", "Compute capability 8.7 of jetson-orin-nano-8gb has no fp8: it came with 8.9", "take int8"),
        ("int4", "t4", "Compute capability 7.5 of t4 has no int4: it came with 8.0", "take int8"),
        ("fp4", "rtx4090", "Compute capability 8.9 of rtx4090 has no fp4: it came with 10.0", "take int4"),
        ("int8", "jetson-nano", "Compute capability 5.3 of jetson-nano has no int8: it came with 6.1", "take fp16"),
        ("bf16", "jetson-xavier-nx", "Compute capability 7.2 of jetson-xavier-nx has no bf16", "take fp16"),
    ],
)
def test_a_precision_that_the_gpu_lacks(
    asked: Callable[..., Preflight], precision: str, target: str, what: str, next: str
) -> None:
    said = asked(nets.conv_net(batch=1), target, precision=precision).refused[0]
    assert said.what.startswith(what)
    assert said.next.startswith(next)


def test_a_precision_inside_the_model_is_named_with_its_node(asked: Callable[..., Preflight]) -> None:
    fp8 = typed_nets.PRECISIONS["fp8"]()
    what, where, _ = one(asked(fp8, "rtx3090"))
    assert what == "Compute capability 8.6 of rtx3090 has no fp8: it came with 8.9"
    assert where.endswith("(QuantizeLinear) and 3 more") or "QuantizeLinear" in where


def test_a_precision_that_the_version_lacks_names_the_jetpack_that_has_it(asked: Callable[..., Preflight]) -> None:
    model = typed_nets.PRECISIONS["bf16"]()
    model.opset_import[0].version = 17
    what, where, next = one(asked(model, "jetson", "6.0"))
    assert what == "TensorRT 8.6.2 has no bf16: it came with 9.0"
    assert where == "node product (MatMul)"
    assert next == "JetPack 6.2 runs on jetson-orin-nano-8gb and brings TensorRT 10.3.0"


def test_an_operator_that_came_later_is_said_once_with_both_ways_out(asked: Callable[..., Preflight]) -> None:
    what, where, next = one(asked(nets.transformer_net(), "jetson", "5.1"))
    assert what == "TensorRT 8.5.2 does not know LayerNormalization: it came with 8.6"
    assert where == "node norm1 (LayerNormalization) and 1 more"
    assert "JetPack 6.2 runs on jetson-orin-nano-8gb" in next
    assert "export the model with opset 16, where it is written out" in next
    assert not asked(nets.transformer_net(), "jetson", "6.2").findings


def test_an_operator_of_no_list_and_one_that_the_lists_refuse(asked: Callable[..., Preflight]) -> None:
    what, where, _ = one(asked(single("Det")))
    assert what == "TensorRT 10.3.0 does not know Det: its lists of operators refuse it"
    assert where == "node it (Det)"
    what, _, next = one(asked(single("MatMulNBits", domain="com.microsoft")))
    assert "an operator of com.microsoft, for which TensorRT needs a plug-in" in what
    assert "standard operators" in next


def test_an_opset_above_what_that_version_reads(asked: Callable[..., Preflight]) -> None:
    model = version_converter.convert_version(nets.conv_net(), 20)
    what, _, next = one(asked(model, "jetson", "5.1"))
    assert what == "TensorRT 8.5.2 reads opset 17 at most, and the model has 20"
    assert "mlopt export MODEL --target" in next


def test_free_dimensions_without_bounds_say_what_to_write(asked: Callable[..., Preflight]) -> None:
    model = nets.conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    what, _, next = one(asked(model))
    assert what == "input image has the free dimension 'height'"
    assert "under [inputs.image] in mlopt.toml, like least = [1, 3, 32, 32], most = [8, 3, 512, 32]" in next
    bounds = InputSpec(least=(1, 3, 32, 32), most=(8, 3, 64, 32))
    assert not asked(model, inputs={"image": bounds}).findings


def test_int8_of_another_kind_than_tensorrts(asked: Callable[..., Preflight]) -> None:
    def quantized(kind: int, zero: int) -> onnx.ModelProto:
        value, constant = helper.make_tensor_value_info, helper.make_tensor
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="down"),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="up"),
        ]
        held = [constant("s", TensorProto.FLOAT, [], [0.1]), constant("z", kind, [], [zero])]
        ends = [[value(name, TensorProto.FLOAT, [1, 4])] for name in ("x", "y")]
        graph = helper.make_graph(nodes, "g", *ends, held)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    what, where, next = one(asked(quantized(TensorProto.UINT8, 128)))
    assert what == "TensorRT quantizes to int8, and this is uint8"
    assert where == "node down (QuantizeLinear) and 1 more"
    assert "rtx-int8" in next
    assert "has zero-point 0, and this has another" in one(asked(quantized(TensorProto.INT8, 3)))[0]
    assert not asked(quantized(TensorProto.INT8, 0)).refused


def test_types_that_tensorrt_does_not_hold_and_types_that_only_the_lists_miss(asked: Callable[..., Preflight]) -> None:
    assert one(asked(single("Identity", TensorProto.UINT32)))[0] == "TensorRT holds no uint32"
    found = asked(single("Sigmoid", TensorProto.INT32))
    assert not found.refused or "RTX" not in found.refused[0].what
    doubt = next(finding for finding in found.findings if not finding.certain)
    assert "have Sigmoid for float32, float16, bfloat16, and here it reads int32" in doubt.what


def test_a_model_that_the_board_cannot_hold(asked: Callable[..., Preflight]) -> None:
    model = nets.conv_net(batch=1, side=32)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 40_000
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 20_000
    what, _, next = one(asked(model, "jetson-xavier-nx"))
    assert "Running it takes about" in what
    assert "jetson-xavier-nx has 6 GiB, 75 % of what CPU and GPU share" in what
    assert "a smaller most" in next


def test_what_a_dla_takes_and_what_falls_back_is_a_fact_where_there_is_one(asked: Callable[..., Preflight]) -> None:
    said = asked(nets.conv_net(), "jetson-orin-nx-16gb").facts[1]
    assert said.startswith("DLA: by its lists and sizes 5 of 7 nodes, in fp16 at fixed shapes")
    assert "Gemm head (no layer of a DLA)" in said
    assert "GlobalAveragePool pool (window 16×16, at most 8)" in said
    for target, jetpack in (("jetson-orin-nx-16gb", "7.2"), ("jetson", "6.2")):
        assert not any(fact.startswith("DLA") for fact in asked(nets.conv_net(), target, jetpack).facts)


@compiler
def test_the_stand_in_is_called_one(asked: Callable[..., Preflight]) -> None:
    said = asked(nets.conv_net()).facts[-1]
    assert said.startswith("proxy: TensorRT for RTX")
    assert "another compiler for another GPU (8.6), compiles it" in said
    assert said.endswith("That is no engine for jetson-orin-nano-8gb")


@compiler
def test_what_only_the_stand_in_refuses_is_a_doubt(asked: Callable[..., Preflight]) -> None:
    value = helper.make_tensor_value_info
    node = helper.make_node("DeformConv", ["x", "w", "o"], ["y"], name="bent", kernel_shape=[1, 1])
    weight = nets.weights("w", 4, 4, 1, 1)
    inputs = [value("x", 1, [1, 4, 8, 8]), value("o", 1, [1, 2, 8, 8])]
    graph = helper.make_graph([node], "g", inputs, [value("y", 1, [1, 4, 8, 8])], [weight])
    found = asked(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    assert not found.refused
    (doubt,) = found.findings
    assert "refuses it; TensorRT on the device may not. It says:" in doubt.what
    assert "node 'bent' (DeformConv)" in doubt.what
    assert any(note.startswith("Preflight doubts it: proxy:") for note in notes({"it": found}))


@compiler
def test_where_the_compiler_serves_the_gpu_its_word_counts(asked: Callable[..., Preflight]) -> None:
    found = asked(nets.conv_net(), "t4")
    assert "FP32 GEMM is not supported" in found.refused[0].what
    assert "'head'" in found.refused[0].what
    assert "compiles it for 8.9: " in asked(nets.conv_net(), "rtx4090").facts[-1]


def test_without_the_compiler_the_rest_is_asked_and_that_is_said(
    asked: Callable[..., Preflight], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlopt.preflight.preflight.installed", lambda distribution: None)
    found = asked(nets.conv_net(), "rtx4090")
    assert any("TensorRT for RTX is not installed here (pip install 'mlopt[tensorrt]')" in one for one in found.facts)
    assert not found.refused


def test_the_stand_in_is_the_nearest_that_there_is() -> None:
    names = ("jetson", "h100", "jetson-thor", "b200", "jetson-xavier-nx")
    assert [stand_in(find_target(name)) for name in names] == ["8.6", "8.9", "12.0", "12.0", ""]


def test_a_target_without_tensorrt_and_a_jetpack_that_a_board_does_not_run() -> None:
    with pytest.raises(Misused, match="rpi5 has no TensorRT"):
        stack_of(find_target("rpi5"))
    with pytest.raises(Misused, match=r"jetson-nano does not run JetPack 6\.2") as caught:
        stack_of(find_target("jetson-nano"), "6.2")
    assert caught.value.next == "it runs 4.6.1"


def test_what_holds_for_every_model_is_said_once() -> None:
    doubt = Finding("it is large", next="make it smaller", certain=False)
    told = list(notes({"a": Preflight(("asked", "3 MB"), ()), "b": Preflight(("asked", "1 MB"), (doubt,))}))
    assert told[:3] == ["Preflight of a, b: asked.", "Preflight of a: 3 MB.", "Preflight of b: 1 MB."]
    assert told[3].startswith("Preflight doubts b: it is large")
    assert list(notes({"a": Preflight(("asked", "3 MB"), ())})) == ["Preflight of a: asked; 3 MB."]
