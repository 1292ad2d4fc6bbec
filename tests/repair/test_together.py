"""Queries, keys and values read one tensor: they are repaired together, to what each would be alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import weights
from onnx import TensorProto, helper
from trials import calibration, run, source

from mlopt.repair import repair
from mlopt.repair.layers import Layer
from mlopt.repair.moments import Moments, moments_of
from mlopt.steps.qdq import Scheme
from mlopt.steps.quantize_static import QuantizeStatic

WIDTH = 24


def attention(*, per_reader: bool) -> onnx.ModelProto:
    """Three products of one tensor, and what is made of them; `per_reader`, each reads a copy of its own."""
    names = ["q", "k", "v"]
    nodes = [helper.make_node("Relu", ["x"], ["h"], name="relu")]
    for number, name in enumerate(names):
        read = "h"
        if per_reader:
            read = f"h_{name}"
            # Nothing is negative, so that any slope copies; equal ones would be merged.
            nodes.append(helper.make_node("LeakyRelu", ["h"], [read], name=f"copy_{name}", alpha=0.1 + 0.1 * number))
        nodes.append(helper.make_node("MatMul", [read, f"w_{name}"], [name], name=f"product_{name}"))
    nodes += [
        helper.make_node("Tanh", ["k"], ["t"], name="tanh"),
        helper.make_node("Mul", ["q", "t"], ["qt"], name="mul"),
        helper.make_node("Add", ["qt", "v"], ["y"], name="add"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 6, WIDTH]) for name in ("x", "y")]
    initializers = [weights(f"w_{name}", WIDTH, WIDTH) for name in names]
    graph = helper.make_graph(nodes, "attention", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("scheme", ["u8s8", "u8s8-paired"])
def test_together_as_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: Scheme) -> None:
    rows: list[int] = []

    def counted(layer: Layer, matrix: np.ndarray, *given: Any) -> Moments:
        rows.append(matrix.shape[1])
        return moments_of(layer, matrix, *given)

    monkeypatch.setattr(repair, "moments_of", counted)
    found = []
    for per_reader in (False, True):
        model, folder = attention(per_reader=per_reader), tmp_path / str(per_reader)
        folder.mkdir()
        step = QuantizeStatic(calibration(folder, model), scheme=scheme, repair=True)
        made = run(step, source(folder / "m", model), folder / "q")
        codes = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(str(made.main)).graph.initializer}
        found.append([codes[f"w_{name}_quantized"] for name in "qkv"])
    assert rows == [3 * WIDTH, WIDTH, WIDTH, WIDTH]
    for together, alone in zip(*found, strict=True):
        assert np.array_equal(together, alone)
