"""Equalisation on nets with depthwise convolutions, residual additions and shared tensors: the same answers, and
channels that were far apart are no longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, depthwise_net, fire_net, transformer_net, unbalanced
from trials import answers, calibration, run, source, sqnr

from mlopt.errors import SamplesInvalid
from mlopt.precision import noise
from mlopt.precision.groups import PRODUCTS
from mlopt.repair.migration import fork, join, norms_of
from mlopt.steps.equalize import Equalize, _with_weights_of
from mlopt.steps.quantize_static import QuantizeStatic


def picture(seed: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).standard_normal((8, 3, 16, 16)).astype(np.float32)}


@pytest.mark.parametrize("net", [depthwise_net, fire_net])
@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_far_apart_are_brought_together_and_answers_stay(
    tmp_path: Path, per_channel: bool, net: Callable[[], onnx.ModelProto]
) -> None:
    """Also where two convolutions read them, as in a fire module."""
    model = unbalanced(net())
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(Equalize(samples, per_channel=per_channel), base, tmp_path / "e")
    exact = answers(base, picture(3))
    assert sqnr(exact, answers(made, picture(3))) > 100
    plain = run(QuantizeStatic(samples, per_channel=per_channel), base, tmp_path / "q")
    better = run(QuantizeStatic(samples, per_channel=per_channel), made, tmp_path / "qe")
    assert sqnr(exact, answers(better, picture(3))) > sqnr(exact, answers(plain, picture(3))) + 6


def test_what_a_residual_addition_reads_is_left_as_it_is(tmp_path: Path) -> None:
    model = unbalanced(depthwise_net())
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(Equalize(samples), base, tmp_path / "e")
    names = [name for node in model.graph.node if node.op_type == "Add" for name in (*node.input, *node.output)]
    assert len(names) == 3
    for name in names:
        one, other = (inner(artifact.main, name) for artifact in (base, made))
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4 * np.abs(one).max())


def inner(path: Path, name: str) -> np.ndarray:
    import onnxruntime as ort

    model = onnx.load(str(path))
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name=name))
    value: np.ndarray = ort.InferenceSession(model.SerializeToString()).run(None, picture(1))[0]
    return value


def test_a_balanced_net_gets_no_worse_and_bytes_are_the_same_twice(tmp_path: Path) -> None:
    model = conv_net()
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    one, two = (run(Equalize(samples), base, tmp_path / f"e{number}") for number in range(2))
    assert one.digest == two.digest
    feed = {"image": np.random.default_rng(5).standard_normal((8, 3, 32, 32)).astype(np.float32)}
    plain, better = (run(QuantizeStatic(samples), base_, tmp_path / name) for base_, name in ((base, "q"), (one, "qe")))
    exact = answers(base, feed)
    assert sqnr(exact, answers(better, feed)) > sqnr(exact, answers(plain, feed)) - 0.5


def test_broken_samples_are_named(tmp_path: Path) -> None:
    model = conv_net()
    base = source(tmp_path / "m", model)
    with pytest.raises(SamplesInvalid, match=r"sample number \d+ leads to NaN or infinity at input 'image'"):
        run(Equalize(calibration(tmp_path, model, broken=True)), base, tmp_path / "e")


def test_values_that_overflow_inside_name_the_node(tmp_path: Path) -> None:
    model = conv_net()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((16, 16, 3, 3), 3e38, np.float32), "w2"))
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    for step in (Equalize(samples), QuantizeStatic(samples, repair=True)):
        with pytest.raises(SamplesInvalid, match=r"NaN or infinity at node 'conv2' \(Conv\)"):
            run(step, base, tmp_path / step.name)


@pytest.mark.parametrize("fused", [True, False])
def test_outliers_behind_a_normalisation_move_into_the_products(tmp_path: Path, fused: bool) -> None:
    model = transformer_net(outliers=64, fused=fused)
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(4).standard_normal((8, 8, 32)).astype(np.float32)}
    products = {"op_types": ("MatMul",)}
    made = run(Equalize(samples, **products), base, tmp_path / "e")  # type: ignore[arg-type]
    exact = answers(base, feed)
    assert sqnr(exact, answers(made, feed)) > 100
    plain, better = (
        run(QuantizeStatic(samples, **products), each, tmp_path / name)  # type: ignore[arg-type]
        for each, name in ((base, "q"), (made, "qe"))
    )
    assert sqnr(exact, answers(better, feed)) > sqnr(exact, answers(plain, feed)) + 6


def test_what_a_sum_reads_beside_products_is_restored_for_it(tmp_path: Path) -> None:
    """As in BERT, where a sum reads the normalised values that the products read."""
    model = transformer_net(outliers=64)
    next(node for node in model.graph.node if node.name == "added").input[0] = "norm1"
    assert [norm.output for norm in norms_of(model.graph)] == ["norm2"]
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    feed = {"x": np.random.default_rng(4).standard_normal((8, 8, 32)).astype(np.float32)}
    products = {"op_types": ("MatMul",), "outputs": False}
    made = run(Equalize(samples, **products), base, tmp_path / "e")  # type: ignore[arg-type]
    restored = [node.name for node in onnx.load(str(made.main)).graph.node if node.op_type == "Mul"]
    assert restored == ["norm1.restored"]
    exact = answers(base, feed)
    assert sqnr(exact, answers(made, feed)) > 100
    plain, better = (
        run(QuantizeStatic(samples, **products), each, tmp_path / name)  # type: ignore[arg-type]
        for each, name in ((base, "q"), (made, "qe"))
    )
    assert sqnr(exact, answers(better, feed)) > sqnr(exact, answers(plain, feed)) + 6


def test_where_nothing_moves_nothing_is_multiplied() -> None:
    model = transformer_net()
    next(node for node in model.graph.node if node.name == "added").input[0] = "norm1"
    before = model.SerializeToString()
    fork(model.graph)
    assert [norm.restoring for norm in norms_of(model.graph)] == [("norm1.restored.factors",), ()]
    join(model.graph)
    assert model.SerializeToString() == before


def test_a_normalisation_that_somebody_else_reads_is_left_alone(tmp_path: Path) -> None:
    model = transformer_net(outliers=64)
    assert [norm.output for norm in norms_of(model.graph)] == ["norm1", "norm2"]
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["norm1"], ["other"], name="other"))
    model.graph.node.append(onnx.helper.make_node("Identity", ["norm2_gamma"], ["copy"], name="copy"))
    assert norms_of(model.graph) == ()


def test_before_repair_the_rounding_of_weights_does_not_count(tmp_path: Path) -> None:
    """Of a model's quantized copy only the weights are put back: what is left of its noise is that of activations."""
    model = onnx.shape_inference.infer_shapes(depthwise_net())
    samples, path = calibration(tmp_path, model), tmp_path / "quantized.onnx"
    step = Equalize(samples, repair=True)
    step.qdq.write(model, step.qdq.observe(model, samples, tmp_path, step.how), path)
    exact, rounded = answers(source(tmp_path / "m", model), picture(3)), noise.answers(path, [picture(3)])[0]
    onnx.save(_with_weights_of(model, onnx.load(str(path))), str(path))
    activations_alone = noise.answers(path, [picture(3)], as_written=True)[0]
    assert sqnr(exact, rounded) < sqnr(exact, activations_alone) < 60
    graph = onnx.load(str(path)).graph
    given = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    trained = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = {node.name: node.input[1] for node in model.graph.node if node.op_type in PRODUCTS}
    seen = [node for node in graph.node if node.op_type in PRODUCTS]
    assert len(seen) == len(weights) > 2
    for node in seen:
        assert np.array_equal(given[node.input[1]], trained[weights[node.name]])
        assert node.input[0] not in given


@pytest.mark.parametrize("per_channel", [True, False])
def test_with_repair_to_come_channels_are_brought_together_too(tmp_path: Path, per_channel: bool) -> None:
    model = unbalanced(depthwise_net())
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    equal = run(Equalize(samples, per_channel=per_channel, repair=True), base, tmp_path / "e")
    exact = answers(base, picture(3))
    assert sqnr(exact, answers(equal, picture(3))) > 100
    alone, both = (
        run(QuantizeStatic(samples, per_channel=per_channel, repair=True), each, tmp_path / name)
        for each, name in ((base, "r"), (equal, "er"))
    )
    assert sqnr(exact, answers(both, picture(3))) > sqnr(exact, answers(alone, picture(3))) + 2


@pytest.mark.parametrize("readers", [1, 2])
def test_channels_that_were_made_flat_are_brought_together_too(tmp_path: Path, readers: int) -> None:
    """As LeNet's and VGG's: each channel is many inputs of the next layer, or of two."""
    draw = np.random.default_rng(4)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return onnx.numpy_helper.from_array((0.2 * draw.standard_normal(shape)).astype(np.float32), name)

    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    tensors = [weights("w1", 6, 3, 3, 3), weights("b1", 6), weights("b2", 64), weights("w4", 64, 10)]
    nodes = [
        make("Conv", ["image", "w1", "b1"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        make("Relu", ["c"], ["r"], name="relu"),
        make("Flatten", ["r"], ["flat"], name="flat"),
    ]
    for name in ("w2", "w3")[:readers]:
        nodes.append(make("Gemm", ["flat", name, "b2"], [f"{name}_out"], name=name))
        nodes.append(make("Relu", [f"{name}_out"], [f"{name}_relu"], name=f"{name}_relu"))
        tensors.append(weights(name, 1536, 64))
    hidden = "w2_relu"
    if readers == 2:
        nodes.append(make("Add", ["w2_relu", "w3_relu"], ["sum"], name="sum"))
        hidden = "sum"
    nodes.append(make("MatMul", [hidden, "w4"], ["y"], name="head"))
    ends = [info("image", 1, ["N", 3, 16, 16])], [info("y", 1, ["N", 10])]
    graph = onnx.helper.make_graph(nodes, "lenet", *ends, tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer}
    values["w1"][0] *= 200
    values["b1"][0] *= 200
    for name in ("w2", "w3")[:readers]:
        values[name][:256] /= 200
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name], tensor.name))
    base, samples = source(tmp_path / "m", model), calibration(tmp_path, model)
    made = run(Equalize(samples), base, tmp_path / "e")
    exact = answers(base, picture(3))
    assert sqnr(exact, answers(made, picture(3))) > 90
    plain = run(QuantizeStatic(samples), base, tmp_path / "q")
    better = run(QuantizeStatic(samples), made, tmp_path / "qe")
    assert sqnr(exact, answers(better, picture(3))) > sqnr(exact, answers(plain, picture(3))) + 6
