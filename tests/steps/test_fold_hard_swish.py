"""Gates on integers: the bytes of what they are computed from, read otherwise; and answers nearer than before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, gated_net
from trials import answers, calibration, operators_that_run, run, source, sqnr

from mlopt.artifact import Artifact
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.steps.fold_hard_swish import FoldHardSwish
from mlopt.steps.fuse_hard_swish import FuseHardSwish
from mlopt.steps.quantize_static import QuantizeStatic


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_gates_are_the_bytes_that_they_are_computed_from(tmp_path: Path, scheme: str) -> None:
    model = gated_net()
    base = source(tmp_path / "m", model)
    plain = run(QuantizeStatic(calibration(tmp_path, model), scheme=scheme), base, tmp_path / "q")  # type: ignore[arg-type]
    folded = run(FoldHardSwish(), plain, tmp_path / "f")
    kinds = [node.op_type for node in onnx.load(str(folded.main)).graph.node]
    assert "HardSigmoid" not in kinds
    ran = operators_that_run(folded.main, tmp_path / "ran.onnx")
    if scheme == "u8s8":
        assert ran.count("QLinearGlobalAveragePool") == 2
        assert ran.count("QLinearMul") == 3
        assert ran.count("Clip") == 3
        assert ran.count("QuantizeLinear") == ran.count("DequantizeLinear") == 1, "the input and the output"
    feed = {"image": np.random.default_rng(1).standard_normal((64, 3, 16, 16)).astype(np.float32)}
    truth = answers(base, feed)
    before, after = (sqnr(truth, answers(one, feed)) for one in (plain, folded))
    assert before > 30
    assert after > 30, "the means of a small net differ by a decibel or two with any grid"


@pytest.mark.parametrize("kind", [np.uint8, np.int8])
@pytest.mark.parametrize("high", [1.0, 2.9, 3.1, 6.0, 11.0])
def test_every_integer_has_the_gate_that_its_value_has(tmp_path: Path, kind: type[np.integer], high: float) -> None:
    """What is left of the error is that of x on its grid: half a step by the slope, which is 3/2 at most."""
    plain = one_swish(tmp_path / "plain", kind, low=-high - 4, high=high)
    folded = run(FoldHardSwish(), plain, tmp_path / "folded")
    kinds = [node.op_type for node in onnx.load(str(folded.main)).graph.node]
    assert "HardSigmoid" not in kinds
    assert ("Clip" in kinds) == (high > 3), "where x reaches what the gate is 1 at"
    x = np.linspace(-high - 3.9, high - 0.1, 4001, dtype=np.float32)
    truth = x * np.clip(x / 6 + 0.5, 0, 1)
    before, after = (np.abs(answers(one, {"x": x}) - truth) for one in (plain, folded))
    step = 3 / int(255 * 3 / (high + 3))
    assert after.max() < step / 2 * 1.51
    assert (after[x <= -3] == 0).all()
    assert np.square(after).mean() < 0.7 * np.square(before).mean()


def test_what_does_not_reach_down_to_where_the_gate_is_0_is_looked_up_in_a_table(tmp_path: Path) -> None:
    """Its bytes would be spent on what never comes."""
    plain = one_swish(tmp_path / "plain", np.uint8, low=-1, high=1)
    folded = run(FoldHardSwish(), plain, tmp_path / "folded")
    assert operators_that_run(folded.main, tmp_path / "ran.onnx").count("QLinearLeakyRelu") == 1


def test_a_gate_that_reads_what_others_read_keeps_their_values(tmp_path: Path) -> None:
    """A sum reads x below -3 too: what is rounded for it must not be cut off."""
    plain = one_swish(tmp_path / "plain", np.uint8, low=-9, high=9, more=True)
    folded = run(FoldHardSwish(), plain, tmp_path / "folded")
    x = np.linspace(-9, 9, 1001, dtype=np.float32)
    truth = x * np.clip(x / 6 + 0.5, 0, 1) + x
    assert np.abs(answers(folded, {"x": x}) - truth).max() < 0.2
    assert "Clip" not in [node.op_type for node in onnx.load(str(folded.main)).graph.node]


def test_an_opset_whose_clip_takes_no_bytes_gets_none(tmp_path: Path) -> None:
    plain = one_swish(tmp_path / "plain", np.uint8, low=-9, high=9, opset=11)
    folded = run(FoldHardSwish(), plain, tmp_path / "folded")
    assert "Clip" not in [node.op_type for node in onnx.load(str(folded.main)).graph.node]
    assert sqnr(answers(plain, X), answers(folded, X)) > 30


X = {"x": np.linspace(-9, 9, 1001, dtype=np.float32)}


def one_swish(
    folder: Path,
    kind: type[np.integer],
    *,
    low: float,
    high: float,
    alpha: float = 1 / 6,
    beta: float = 0.5,
    more: bool = False,
    opset: int = 17,
) -> Artifact:
    """x to its HardSwish, from pair to pair; with `more`, x is added to it."""
    lowest = np.iinfo(kind).min
    constants = []

    def pair(name: str, low: float, high: float) -> list[onnx.NodeProto]:
        scale = (high - low) / 255
        for part, value in (("s", np.float32(scale)), ("z", kind(lowest + round(-low / scale)))):
            constants.append(onnx.numpy_helper.from_array(np.asarray(value), f"{name}_{part}"))
        grid = [f"{name}_s", f"{name}_z"]
        return [
            onnx.helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"]),
            onnx.helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_d"]),
        ]

    nodes = [
        *pair("x", low, high),
        onnx.helper.make_node("HardSigmoid", ["x_d"], ["g"], name="g", alpha=alpha, beta=beta),
        *pair("g", 0, min(1.0, high * alpha + beta)),
        onnx.helper.make_node("Mul", ["x_d", "g_d"], ["y" if not more else "h"], name="product"),
    ]
    if more:
        nodes.append(onnx.helper.make_node("Add", ["h", "x_d"], ["y"], name="sum"))
    graph = onnx.helper.make_graph(
        nodes,
        "one",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N"])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])],
        constants,
    )
    folder.mkdir()
    return source(
        folder, onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", opset)])
    )


def test_a_model_without_any_comes_out_as_it_went_in(tmp_path: Path) -> None:
    model = conv_net()
    plain = run(QuantizeStatic(calibration(tmp_path, model)), source(tmp_path / "m", model), tmp_path / "q")
    assert run(FoldHardSwish(), plain, tmp_path / "f").digest == plain.digest


@pytest.mark.parametrize(
    ("alpha", "beta", "kind"),
    [(0.2, 0.5, "Clip"), (0.25, 0.5, "Clip"), (0.2, 0.0, "LeakyRelu"), (0.2, 0.3, "HardSigmoid")],
)
def test_a_gate_of_another_slope_is_folded_too_and_one_off_the_grid_is_not(
    tmp_path: Path, alpha: float, beta: float, kind: str
) -> None:
    """Of the last no integer is 1."""
    plain = one_swish(tmp_path / "plain", np.uint8, low=-9.5, high=9.5, alpha=alpha, beta=beta)
    folded = run(FoldHardSwish(), plain, tmp_path / "folded")
    assert kind in [node.op_type for node in onnx.load(str(folded.main)).graph.node]
    x = X["x"]
    truth = x * np.clip(alpha * x + beta, 0, 1)
    assert np.abs(answers(folded, X) - truth).max() < 0.1


def test_a_gate_that_is_an_output_too_keeps_its_answers(tmp_path: Path) -> None:
    model = gated_net()
    swish = next(node for node in model.graph.node if node.name == "swish1")
    gate = onnx.helper.make_node("HardSigmoid", swish.input, ["seen"], name="seen", alpha=1 / 6, beta=0.5)
    product = onnx.helper.make_node("Mul", [swish.input[0], "seen"], swish.output, name="product")
    nodes = [one for node in model.graph.node for one in ((gate, product) if node.name == "swish1" else (node,))]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.output.append(onnx.helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, ["N", 16, 16, 16]))
    base = source(tmp_path / "m", model)
    plain = run(QuantizeStatic(calibration(tmp_path, model)), base, tmp_path / "q")
    feed = {"image": np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)}
    for step in (FoldHardSwish(), FuseHardSwish()):
        made = run(step, plain, tmp_path / step.name)
        with OnnxRuntimeRunner(plain.main, threads=1) as one, OnnxRuntimeRunner(made.main, threads=1) as other:
            assert np.abs(one.infer(feed)[1] - other.infer(feed)[1]).max() < 0.02, "a step or two of 1/256"


@pytest.mark.parametrize("other", ["no zero-point", "another scale"])
def test_what_is_read_with_another_grid_than_it_was_rounded_to_gets_no_clip(tmp_path: Path, other: str) -> None:
    plain = one_swish(tmp_path / "plain", np.uint8, low=-9, high=9)
    model = onnx.load(str(plain.main))
    (read,) = [node for node in model.graph.node if node.output[0] == "x_d"]
    if other == "no zero-point":
        del read.input[2]
    else:
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.01), "x_other"))
        read.input[1] = "x_other"
    folded = run(FoldHardSwish(), source(tmp_path / "o", model), tmp_path / "folded")
    assert "Clip" not in [node.op_type for node in onnx.load(str(folded.main)).graph.node]
