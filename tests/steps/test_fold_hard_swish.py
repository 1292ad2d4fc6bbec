"""Gates of HardSwish on integers: a table look-up in ONNX Runtime, and answers as near as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, gated_net
from trials import answers, calibration, operators_that_run, run, source, sqnr

from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.steps.fold_hard_swish import FoldHardSwish
from mlopt.steps.fuse_hard_swish import FuseHardSwish
from mlopt.steps.quantize_static import QuantizeStatic


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_gates_of_hard_swish_become_tables(tmp_path: Path, scheme: str) -> None:
    model = gated_net()
    base = source(tmp_path / "m", model)
    plain = run(QuantizeStatic(calibration(tmp_path, model), scheme=scheme), base, tmp_path / "q")  # type: ignore[arg-type]
    folded = run(FoldHardSwish(), plain, tmp_path / "f")
    kinds = [node.op_type for node in onnx.load(str(folded.main)).graph.node]
    assert kinds.count("HardSigmoid") == 1, "the gate of squeeze-and-excite keeps a scale of its own"
    ran = operators_that_run(folded.main, tmp_path / "ran.onnx")
    assert ran.count("QLinearLeakyRelu") == 2
    if scheme == "u8s8":
        assert ran.count("QLinearGlobalAveragePool") == 2
        assert ran.count("QLinearMul") == 3
    feed = {"image": np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)}
    truth = answers(base, feed)
    before, after = (sqnr(truth, answers(one, feed)) for one in (plain, folded))
    assert before > 20
    assert after > before - 1.5


def test_a_model_without_any_comes_out_as_it_went_in(tmp_path: Path) -> None:
    model = conv_net()
    plain = run(QuantizeStatic(calibration(tmp_path, model)), source(tmp_path / "m", model), tmp_path / "q")
    assert run(FoldHardSwish(), plain, tmp_path / "f").digest == plain.digest


def test_a_gate_of_another_slope_is_folded_too_and_one_off_the_grid_is_not(tmp_path: Path) -> None:
    model = gated_net()
    gates = [(0.2, 0.5, 2), (0.2, 0.3, 0)]
    for alpha, beta, folded in gates:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        nodes = []
        for node in changed.graph.node:
            if node.op_type != "HardSwish":
                nodes.append(node)
                continue
            gate = onnx.helper.make_node(
                "HardSigmoid", node.input, [f"{node.name}_g"], name=f"{node.name}_g", alpha=alpha, beta=beta
            )
            nodes += [
                gate,
                onnx.helper.make_node("Mul", [node.input[0], f"{node.name}_g"], node.output, name=node.name),
            ]
        del changed.graph.node[:]
        changed.graph.node.extend(nodes)
        folder = tmp_path / f"{beta}"
        folder.mkdir()
        base = source(folder / "m", changed)
        plain = run(QuantizeStatic(calibration(folder, changed)), base, folder / "q")
        made = run(FoldHardSwish(), plain, folder / "f")
        kinds = [node.op_type for node in onnx.load(str(made.main)).graph.node]
        assert kinds.count("LeakyRelu") == folded
        feed = {"image": np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)}
        assert sqnr(answers(base, feed), answers(made, feed)) > 20


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
            assert sqnr(one.infer(feed)[1], other.infer(feed)[1] + 1e-6) > 60
