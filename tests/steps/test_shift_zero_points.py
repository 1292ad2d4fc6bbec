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


def mlp(*, gemm: bool, names: tuple[str, ...]) -> onnx.ModelProto:
    """Two products after each other; `names` are their outputs, then what the biases are called, then the additions."""
    first, second, bias, bias2, *_ = names
    draw = np.random.default_rng(2)
    make, nodes, weights = onnx.helper.make_node, [], []
    read, kind = "x", "Gemm" if gemm else "MatMul"
    for number, (out, added) in enumerate(((first, bias), (second, bias2))):
        weights.append(onnx.numpy_helper.from_array(draw.standard_normal((16, 16)).astype(np.float32), f"w{number}"))
        weights.append(onnx.numpy_helper.from_array(draw.standard_normal(16).astype(np.float32), added))
        if gemm:
            nodes.append(make(kind, [read, f"w{number}", added], [out], name=out))
        else:
            nodes.append(make(kind, [read, f"w{number}"], [out], name=out))
            nodes.append(make("Add", [out, added], [f"{out}_sum"], name=f"{out}_bias"))
            out = f"{out}_sum"
        nodes.append(make("Tanh", [out], [f"{out}_t"], name=f"tanh{number}"))
        read = f"{out}_t"
    sides = [8, 16] if gemm else [8, 3, 16]
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes, "mlp", [info("x", 1, ["N", *sides[1:]])], [info(read, 1, ["N", *sides[1:]])], weights
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("gemm", [True, False])
@pytest.mark.parametrize(
    "names",
    [("fc1", "fc2", "fc1_bias", "fc2_bias"), ("fc1", "fc1_less", "fc1_product", "b")],
    ids=["as MXNet names them", "as this step does"],
)
def test_names_that_are_taken_are_not_given_again(tmp_path: Path, gemm: bool, names: tuple[str, ...]) -> None:
    model = mlp(gemm=gemm, names=names)
    before = quantized(tmp_path, model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    assert set(zero_points(after).values()) == {("uint8", 0)}
    alike(before, after, feed_of(model))


def test_a_product_whose_sum_is_no_bias_gets_an_addition_of_its_own(tmp_path: Path) -> None:
    model = mlp(gemm=False, names=("fc1", "fc2", "b1", "b2"))
    for tensor in model.graph.initializer:
        if tensor.name == "b1":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.float32(0.5), "b1"))
    before = quantized(tmp_path, model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    names = [node.name for node in onnx.load(str(after.main)).graph.node]
    assert len(names) == len(set(names))
    alike(before, after, feed_of(model))


def pair_net(change: str) -> onnx.ModelProto:
    """A pair with a zero-point before a product, and one thing about it that the step must see."""
    draw, tensor = np.random.default_rng(3), onnx.numpy_helper.from_array
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    weights = [
        tensor(np.float32(0.05), "s"),
        tensor(np.uint8(120), "z"),
        tensor(np.float32(0.1), "s2"),
        tensor(draw.standard_normal((16, 8)).astype(np.float32), "w"),
        tensor(draw.standard_normal(8).astype(np.float32), "b"),
    ]
    back = {"another scale": ["q", "s2", "z"], "no zero-point": ["q", "s"]}.get(change, ["q", "s", "z"])
    nodes = [make("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"), make("DequantizeLinear", back, ["d"], name="d")]
    product = "w"
    if change == "weights by blocks":
        weights.append(tensor(draw.integers(-9, 9, (16, 8)).astype(np.int8), "codes"))
        weights.append(tensor(draw.random((4, 8)).astype(np.float32), "scales"))
        nodes.append(make("DequantizeLinear", ["codes", "scales"], ["wd"], name="wd", axis=0, block_size=4))
        product = "wd"
    nodes += [make("MatMul", ["d", product], ["m"], name="m"), make("Add", ["m", "b"], ["y"], name="a")]
    given = [info("x", 1, [4, 16])] + ([info("b", 1, [8])] if change == "a bias that callers may replace" else [])
    graph = onnx.helper.make_graph(nodes, "net", given, [info("y", 1, [4, 8])], weights)
    graph.value_info.append(info("q", onnx.TensorProto.UINT8, [4, 16]))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("change", ["none", "another scale", "no zero-point", "weights by blocks"])
def test_only_a_pair_that_gives_back_what_it_took_is_shifted(tmp_path: Path, change: str) -> None:
    model = pair_net(change)
    before = source(tmp_path / "m", model)
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    assert (after.digest == before.digest) == (change != "none")
    alike(before, after, {"x": 3 * np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)})


def test_a_bias_that_a_caller_may_replace_still_can_be(tmp_path: Path) -> None:
    before = source(tmp_path / "m", pair_net("a bias that callers may replace"))
    after = run(ShiftZeroPoints(), before, tmp_path / "s")
    x = {"x": np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32)}
    alike(before, after, x)
    alike(before, after, {**x, "b": np.full(8, 30, np.float32)})
