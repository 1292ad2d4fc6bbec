"""Depthwise convolutions filled up with channels of zeros: the same answers, and the number that was asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, weights
from onnx import TensorProto, helper
from trials import answers, calibration, run, source, sqnr

from mlopt.precision.groups import name_nodes
from mlopt.prune.widen import widen
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.widen_depthwise import WidenDepthwise


def gated(width: int = 24, *, tail: str = "") -> onnx.ModelProto:
    """Expand to `width`, depthwise with a squeeze-and-excite gate and HardSwish, project, add; `tail` adds a reader."""
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["c0"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c0", "w1", "b1"], ["c1"], name="expand"),
        helper.make_node("HardSwish", ["c1"], ["h1"], name="swish"),
        helper.make_node("Conv", ["h1", "w2", "b2"], ["c2"], name="depth", group=width, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["c2"], ["m"], name="squeeze"),
        helper.make_node("Conv", ["m", "w3"], ["s"], name="reduce"),
        helper.make_node("Relu", ["s"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w4", "b2"], ["e"], name="excite"),
        helper.make_node("HardSigmoid", ["e"], ["gate"], name="gate", alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["c2", "gate"], ["g"], name="gated"),
        helper.make_node("Conv", ["g", "w5"], ["c5"], name="project"),
        helper.make_node("Add", ["c0", "c5"], ["y" if not tail else "a"], name="add"),
    ]
    if tail == "concat":
        nodes.append(helper.make_node("Concat", ["a", "g"], ["y"], name="concat", axis=1))
    if tail == "softmax":
        nodes += [
            helper.make_node("Softmax", ["g"], ["p"], name="softmax", axis=1),
            helper.make_node("Conv", ["p", "w5"], ["q"], name="again"),
            helper.make_node("Add", ["a", "q"], ["y"], name="last"),
        ]
    sizes = {"w0": (8, 3, 3, 3), "w1": (width, 8, 1, 1), "w2": (width, 1, 3, 3), "w3": (6, width, 1, 1)}
    sizes |= {"w4": (width, 6, 1, 1), "w5": (8, width, 1, 1), "b1": (width,), "b2": (width,)}
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weights(name, *shape, scale=0.4) for name, shape in sizes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    name_nodes(model.graph)
    return model


FEED = {"image": np.random.default_rng(1).standard_normal((3, 3, 12, 12)).astype(np.float32)}


@pytest.mark.parametrize(("width", "wider"), [(24, 32), (30, 32), (40, 48)])
def test_widened_with_its_gate_and_its_neighbours(tmp_path: Path, width: int, wider: int) -> None:
    model = gated(width)
    made = widen(model, multiple=16, most=0.5)
    assert made is not None
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(made, strict_mode=True), full_check=True)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in made.graph.initializer}
    assert shapes["w1"] == (wider, 8, 1, 1)
    assert shapes["w2"] == (wider, 1, 3, 3)
    assert shapes["w3"] == (6, wider, 1, 1)
    assert shapes["w4"] == (wider, 6, 1, 1)
    assert shapes["w5"] == (8, wider, 1, 1)
    assert shapes["b2"] == (wider,)
    assert shapes["w0"] == (8, 3, 3, 3), "other channels stay"
    before, after = (answers(source(tmp_path / name, one), FEED) for name, one in (("a", model), ("b", made)))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tail", ["concat", "softmax"])
def test_left_alone_where_the_number_of_channels_matters(tail: str) -> None:
    assert widen(gated(tail=tail), multiple=16, most=0.5) is None


def test_left_alone_where_it_would_cost_too_much_or_nothing_is_depthwise() -> None:
    assert widen(gated(), multiple=16, most=0.25) is None
    assert widen(gated(32), multiple=16, most=0.5) is None
    model = onnx.shape_inference.infer_shapes(conv_net(width=24))
    assert widen(model, multiple=16, most=0.5) is None


def test_the_step_before_quantizing(tmp_path: Path) -> None:
    model = gated(30)
    base = source(tmp_path / "m", model)
    wide = run(WidenDepthwise(), base, tmp_path / "w")
    samples = calibration(tmp_path, model)
    plain, made = (run(QuantizeStatic(samples), one, tmp_path / f"q{n}") for n, one in enumerate((base, wide)))
    truth = answers(base, FEED)
    assert sqnr(truth, answers(made, FEED)) > sqnr(truth, answers(plain, FEED)) - 0.5
    assert run(WidenDepthwise(), base, tmp_path / "again").digest == wide.digest
    narrow = source(tmp_path / "n", conv_net())
    assert run(WidenDepthwise(), narrow, tmp_path / "same").digest == narrow.digest
