"""HardSwish put together again: fewer nodes, the same answers, and only where it is one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, gated_net
from trials import answers, calibration, run, source

from mlopt.steps.fuse_hard_swish import FuseHardSwish
from mlopt.steps.quantize_static import QuantizeStatic

FEED = {"image": np.random.default_rng(1).standard_normal((8, 3, 16, 16)).astype(np.float32)}


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def taken_apart(alpha: float = 1 / 6) -> onnx.ModelProto:
    model = gated_net()
    nodes = []
    for node in model.graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        gate = f"{node.name}_gate"
        nodes.append(onnx.helper.make_node("HardSigmoid", node.input, [gate], name=gate, alpha=alpha, beta=0.5))
        nodes.append(onnx.helper.make_node("Mul", [gate, node.input[0]], node.output, name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def test_put_together(tmp_path: Path) -> None:
    base = source(tmp_path / "m", taken_apart())
    made = run(FuseHardSwish(), base, tmp_path / "f")
    assert kinds(made.main).count("HardSwish") == 2
    assert kinds(made.main).count("HardSigmoid") == 1, "the gate of squeeze-and-excite multiplies another tensor"
    np.testing.assert_allclose(answers(made, FEED), answers(base, FEED), rtol=1e-4, atol=1e-5)


def test_after_quantizing_where_products_alone_have_pairs(tmp_path: Path) -> None:
    model = gated_net()
    base = source(tmp_path / "m", model)
    step = QuantizeStatic(calibration(tmp_path, model), op_types=("Conv", "Gemm"), outputs=False)
    plain = run(step, base, tmp_path / "q")
    made = run(FuseHardSwish(), plain, tmp_path / "f")
    assert kinds(plain.main).count("HardSwish") == 0
    assert kinds(made.main).count("HardSwish") == 2
    np.testing.assert_allclose(answers(made, FEED), answers(plain, FEED), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("model", [taken_apart(alpha=0.2), conv_net()], ids=["another slope", "none"])
def test_others_come_out_as_they_went_in(tmp_path: Path, model: onnx.ModelProto) -> None:
    base = source(tmp_path / "m", model)
    assert run(FuseHardSwish(), base, tmp_path / "f").digest == base.digest
