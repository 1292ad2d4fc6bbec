"""OpenVINO as a runtime: the answers of ONNX Runtime, in the type that was asked for, and its refusals in words."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nets
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from trials import calibration, run, source, sqnr

from mlopt.errors import UnsupportedModel, WorkerFailed
from mlopt.host import detect
from mlopt.onnx_file import notes_in
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.runners.openvino import OpenVinoRunner
from mlopt.runners.trial import survive
from mlopt.serve.openvino import APART, Network
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.set_precision import SetPrecision

pytestmark = pytest.mark.openvino

SHAPES = {"image": (3, 32, 32), "x": (64,)}


def feeds(batch: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(batch)
    return {name: draw.standard_normal((batch, *shape)).astype(np.float32) for name, shape in shapes.items()}


def both(model: Path, given: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    with OnnxRuntimeRunner(model, threads=1) as one, OpenVinoRunner(model, threads=1) as other:
        assert one.outputs == other.outputs
        return one.infer(given), other.infer(given)


def kinds(model: Path) -> Counter[tuple[str, str]]:
    """Of the nodes that OpenVINO runs: the kind of each with the type that it computes in."""

    def of(node: Any) -> tuple[str, str]:
        facts = node.get_rt_info()
        return facts["layerType"].value, facts["runtimePrecision"].value

    return Counter(of(node) for node in Network(model, threads=1).compiled.get_runtime_model().get_ordered_ops())


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(("make", "name"), [(nets.conv_net, "image"), (nets.matmul_net, "x")])
def test_the_answers_are_those_of_onnx_runtime(tmp_path: Path, make: Any, name: str, batch: int) -> None:
    model = nets.save(make(), tmp_path / "net.onnx")
    expected, found = both(model, feeds(batch, **{name: SHAPES[name]}))
    for one, other in zip(expected, found, strict=True):
        assert other.dtype == one.dtype
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)


def test_one_loaded_model_takes_batches_of_any_size(tmp_path: Path) -> None:
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    with OpenVinoRunner(model, threads=2) as runner:
        for batch in (1, 4, 2, 1):
            assert runner.infer(feeds(batch, image=(3, 32, 32)))[0].shape == (batch, nets.CLASSES)


def test_several_inputs_and_outputs_of_several_types_in_the_order_of_the_model(tmp_path: Path) -> None:
    model = nets.save(nets.two_sided_net(), tmp_path / "net.onnx")
    given = {**feeds(3, x=(8,)), "index": np.array([0, 4, 2])}
    given["x"].flags.writeable = False
    expected, found = both(model, given)
    assert [array.dtype for array in found] == [np.int64, np.float32, np.bool_]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_an_answer_is_the_caller_s_own(tmp_path: Path) -> None:
    """The next query does not write over it, and the one who asks may change the input afterwards."""
    model = nets.save(nets.matmul_net(), tmp_path / "net.onnx")
    with OpenVinoRunner(model, threads=1) as runner:
        given = feeds(2, x=(64,))
        first = runner.infer(given)[0]
        kept = first.copy()
        given["x"][:] = 7.0
        assert not np.allclose(runner.infer(given)[0], kept)
        np.testing.assert_array_equal(first, kept)


def test_an_input_that_does_not_lie_in_one_piece(tmp_path: Path) -> None:
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    last = np.random.default_rng(0).standard_normal((6, 32, 32, 3)).astype(np.float32)
    expected, found = both(model, {"image": last.transpose(0, 3, 1, 2)[::3]})
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4, atol=1e-5)


def test_weights_beside_the_file_are_found(tmp_path: Path) -> None:
    model = nets.conv_net()
    whole = nets.save(model, tmp_path / "whole" / "model.onnx")
    (tmp_path / "parts").mkdir()
    parts = tmp_path / "parts" / "model.onnx"
    onnx.save(model, str(parts), save_as_external_data=True, location="model.data", size_threshold=64)
    given = feeds(1, image=(3, 32, 32))
    np.testing.assert_array_equal(both(whole, given)[1][0], both(parts, given)[1][0])


def test_int8_is_computed_in_int8(tmp_path: Path) -> None:
    model = nets.conv_net(width=32)
    base = source(tmp_path / "m", model)
    made = run(QuantizeStatic(calibration(tmp_path, model), scheme="u8s8"), base, tmp_path / "q")
    found = kinds(made.main)
    assert found["Convolution", "u8"] + found["Convolution", "i8"] == 2, found
    assert found["Convolution", "f32"] == 0
    assert kinds(base.main)["Convolution", "f32"] == 2, "and the other way round"
    given = feeds(16, image=(3, 32, 32))
    exact, quantized = both(base.main, given)[0][0], both(made.main, given)[1][0]
    assert sqnr(exact, quantized) > 20


def test_the_type_of_the_arithmetic_is_what_the_file_says(tmp_path: Path) -> None:
    """float32 where it says nothing, also on processors where OpenVINO would take bfloat16 by itself."""
    base = source(tmp_path / "m", nets.conv_net(width=32))
    exact = run(SetPrecision("f32"), base, tmp_path / "f32")
    assert kinds(base.main) == kinds(exact.main)
    if not {"avx512-bf16", "amx-bf16"} & set(detect().isa):
        pytest.skip("this processor does not multiply bfloat16")
    half = run(SetPrecision("bf16"), base, tmp_path / "bf16")
    found = kinds(half.main)
    assert found["Convolution", "bf16"] == 2, found
    assert kinds(run(SetPrecision("f32"), half, tmp_path / "back").main) == kinds(base.main)
    given = feeds(16, image=(3, 32, 32))
    expected, rounded = both(base.main, given)[0][0], both(half.main, given)[1][0]
    assert 30 < sqnr(expected, rounded) < 70, "rounded, and not by much"


def test_set_precision_changes_the_metadata_alone(tmp_path: Path) -> None:
    base = source(tmp_path / "m", nets.conv_net())
    made = run(SetPrecision("bf16"), base, tmp_path / "p")
    first, second = onnx.load(str(base.main)), onnx.load(str(made.main))
    assert first.graph == second.graph
    assert [entry.value for entry in second.metadata_props] == ["bf16"]
    with pytest.raises(ValueError, match="there are 'f32' and 'bf16'"):
        SetPrecision("fp8")  # type: ignore[arg-type]


def test_int8_with_bfloat16_between(tmp_path: Path) -> None:
    """Products with weights on integers, attention and the rest in bfloat16, and the file says so."""
    if not {"avx512-bf16", "amx-bf16"} & set(detect().isa):
        pytest.skip("this processor does not multiply bfloat16")
    model = nets.transformer_net(width=64, tokens=16)
    base = source(tmp_path / "m", model)
    quantized = run(
        QuantizeStatic(calibration(tmp_path, model), op_types=("MatMul",), outputs=False), base, tmp_path / "q"
    )
    made = run(SetPrecision("bf16"), quantized, tmp_path / "b")
    found = kinds(made.main)
    assert found["FullyConnected", "u8"] + found["FullyConnected", "i8"] == 6, found
    assert any(precision == "bf16" for _, precision in found), found
    assert not any(precision == "bf16" for _, precision in kinds(quantized.main))
    assert "bfloat16" in notes_in(made.main)[-1]
    assert len(notes_in(made.main)) == 1 + len(notes_in(quantized.main))
    given = feeds(8, x=(16, 64))
    exact, rounded = both(base.main, given)[0][0], both(made.main, given)[1][0]
    assert sqnr(exact, rounded) > 25


def odd(*, domain: str = "", kind: str, inputs: int = 1) -> onnx.ModelProto:
    """Relu, then an operator that OpenVINO cannot take, as node `strange`."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node(kind, ["r"] * inputs, ["y"], name="strange", domain=domain),
    ]
    graph = helper.make_graph(
        nodes, "net", [value("x", TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, None)]
    )
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (odd(kind="Mystery", domain="acme"), r"it has no acme\.Mystery: node 'strange' \(acme\.Mystery\)"),
        (odd(kind="StringNormalizer"), r"it has no StringNormalizer: node 'strange' \(StringNormalizer\)"),
        (odd(kind="Conv", inputs=2), r"node 'strange' \(Conv\): Expected a 3D, 4D or 5D tensor"),
    ],
)
def test_what_it_cannot_take_is_named_with_its_node(tmp_path: Path, model: onnx.ModelProto, words: str) -> None:
    path = nets.save(model, tmp_path / "net.onnx")
    with pytest.raises(UnsupportedModel, match=words) as refused, OpenVinoRunner(path, threads=1):
        pass
    assert "ONNX Runtime" in refused.value.next
    assert refused.value.where == str(path)


def test_what_is_no_model_and_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(UnsupportedModel, match="cannot load"), OpenVinoRunner(tmp_path / "no.onnx", threads=1):
        pass
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    with OpenVinoRunner(model, threads=1) as runner:
        for given in ({"other": np.zeros((1, 3, 32, 32), np.float32)}, feeds(1, image=(4, 32, 32))):
            with pytest.raises(UnsupportedModel, match="failed while running"):
                runner.infer(given)
        assert runner.infer(feeds(1, image=(3, 32, 32)))[0].shape == (1, nets.CLASSES), "and it still answers"


def test_the_first_query_in_another_process(tmp_path: Path) -> None:
    good = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    survive("openvino", good, feeds(1, image=(3, 32, 32)))
    with pytest.raises((UnsupportedModel, WorkerFailed), match=r"acme\.Mystery"):
        survive("openvino", nets.save(odd(kind="Mystery", domain="acme"), tmp_path / "odd.onnx"), feeds(1, x=(4,)))


def test_its_maker_hears_nothing(tmp_path: Path) -> None:
    """`import openvino` alone reports itself, through the converter that it brings along."""
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    code = (
        "import sys, pathlib; from mlopt.serve.openvino import Network; "
        f"Network(pathlib.Path({str(model)!r}), threads=1); "
        "print([name for name in sys.modules if 'telemetry' in name or name.startswith('openvino.tools')])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"HOME": str(tmp_path / "home")}
    )
    assert ended.stdout.strip() == "[]"
    assert not (tmp_path / "home").exists()


def test_names_of_outputs(tmp_path: Path) -> None:
    network = Network(nets.save(nets.two_sided_net(), tmp_path / "net.onnx"), threads=1)
    assert network.outputs == ("best", "scores", "above")


def shapes(network: Network) -> list[str]:
    return [str(entry.get_partial_shape()) for entry in network.compiled.inputs]


def test_a_batch_of_one_has_kernels_of_its_own(tmp_path: Path) -> None:
    free = Network(nets.save(nets.conv_net(), tmp_path / "free.onnx"), threads=1)
    assert shapes(free) == ["[1,3,32,32]"]
    fixed = Network(nets.save(nets.conv_net(batch=4), tmp_path / "fixed.onnx"), threads=1)
    assert shapes(fixed) == ["[4,3,32,32]"]
    assert fixed.infer(feeds(4, image=(3, 32, 32)))[0].shape == (4, nets.CLASSES)
    two = Network(nets.save(nets.two_sided_net(), tmp_path / "two.onnx"), threads=1)
    assert shapes(two) == ["[1,8]", "[1]"]


def test_a_model_that_cannot_take_a_batch_of_one_is_compiled_for_any(tmp_path: Path) -> None:
    """Pairs of rows become one row: an odd number of them is no shape."""
    value = helper.make_tensor_value_info
    pairs = onnx.numpy_helper.from_array(np.array([-1, 2, 4]), "pairs")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "pairs"], ["y"], name="pair")],
        "net",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["M", 2, 4])],
        [pairs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    network = Network(nets.save(model, tmp_path / "net.onnx"), threads=1)
    assert network.infer(feeds(4, x=(4,)))[0].shape == (2, 2, 4)


def test_other_free_dimensions_than_the_batch_stay_free(tmp_path: Path) -> None:
    model = nets.conv_net()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    network = Network(nets.save(model, tmp_path / "net.onnx"), threads=1)
    for height in (32, 48):
        given = np.zeros((1, 3, height, 32), np.float32)
        assert network.infer({"image": given})[0].shape == (1, nets.CLASSES)


def test_elementwise_operators_run_one_by_one_where_the_file_says_so(tmp_path: Path) -> None:
    """OpenVINO makes one program of a chain of them; the answers stay those of ONNX Runtime."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 16, 16]) for name in ("x", "y", "out")]
    chain = (("Mul", ["x", "y"], "m"), ("Add", ["m", "x"], "a"), ("Sigmoid", ["a"], "s"), ("Mul", ["s", "y"], "out"))
    nodes = [helper.make_node(kind, given, [made]) for kind, given, made in chain]
    graph = helper.make_graph(nodes, "chain", ends[:2], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    fused = nets.save(model, tmp_path / "fused.onnx")
    model.metadata_props.add(key=APART, value="tried")
    apart = nets.save(model, tmp_path / "apart.onnx")

    def programs(file: Path) -> int:
        return sum(count for (kind, _), count in kinds(file).items() if kind == "Subgraph")

    assert programs(fused) == 1
    assert programs(apart) == 0
    expected, found = both(apart, {name: np.full((1, 8, 16, 16), 0.5, np.float32) for name in ("x", "y")})
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
