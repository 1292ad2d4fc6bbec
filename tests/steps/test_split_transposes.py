"""Transposed factors in two movements: rows stay whole, and answers are the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import transformer_net
from onnx import TensorProto, helper, numpy_helper
from trials import run, source

from mlopt.artifact import Artifact
from mlopt.steps.split_transposes import SplitTransposes


def keys_net(*turns: tuple[int, ...], scaled: int = 0, read_twice: bool = False) -> onnx.ModelProto:
    """Queries times keys, which are transposed by each of `turns`, and divided by 8 behind that many of them."""
    nodes, keys = [], "k"
    for number, turn in enumerate(turns):
        nodes.append(helper.make_node("Transpose", [keys], [f"k{number}"], name=f"turn{number}", perm=turn))
        keys = f"k{number}"
        if number + 1 == scaled:
            nodes.append(helper.make_node("Div", [keys, "eight"], ["small"], name="scale"))
            keys = "small"
    nodes.append(helper.make_node("MatMul", ["q", keys], ["scores"], name="product"))
    info = helper.make_tensor_value_info
    inputs = [info("q", TensorProto.FLOAT, [2, 3, 5, 4]), info("k", TensorProto.FLOAT, [2, 5, 3, 4])]
    outputs = [info("scores", TensorProto.FLOAT, [2, 3, 5, 5])]
    if read_twice:
        outputs.append(info(keys, TensorProto.FLOAT, [None] * 4))
    graph = helper.make_graph(nodes, "net", inputs, outputs, [numpy_helper.from_array(np.float32(8), "eight")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def movements(artifact: Artifact) -> list[tuple[int, ...]]:
    """The transpositions between the keys and the product, in order."""
    graph = onnx.load(str(artifact.main)).graph
    makers = {name: node for node in graph.node for name in node.output}
    found, name = [], next(node for node in graph.node if node.op_type == "MatMul").input[1]
    while name in makers:
        if makers[name].op_type == "Transpose":
            found.append(tuple(makers[name].attribute[0].ints))
        name = makers[name].input[0]
    return found[::-1]


def scores(artifact: Artifact) -> np.ndarray:
    draw = np.random.default_rng(3)
    feed = {name: draw.standard_normal(sides).astype(np.float32) for name, sides in
            (("q", (2, 3, 5, 4)), ("k", (2, 5, 3, 4)))}  # fmt: skip
    session = ort.InferenceSession(str(artifact.main), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


@pytest.mark.parametrize(
    ("turns", "scaled"),
    [(((0, 2, 3, 1),), 0), (((0, 2, 3, 1),), 1), (((0, 2, 1, 3), (0, 1, 3, 2)), 2)],
    ids=["at once", "at once, scaled", "in two, scaled behind both"],
)
def test_the_last_two_axes_are_swapped_right_before_the_product(
    tmp_path: Path, turns: tuple[tuple[int, ...], ...], scaled: int
) -> None:
    base = source(tmp_path / "m", keys_net(*turns, scaled=scaled))
    made = run(SplitTransposes(), base, tmp_path / "s")
    moved = [turn for turn in movements(made) if turn != (0, 1, 2, 3)]
    assert moved == [(0, 2, 1, 3), (0, 1, 3, 2)]
    np.testing.assert_array_equal(scores(made), scores(base))


@pytest.mark.parametrize(
    "model",
    [keys_net((0, 2, 1, 3), (0, 1, 3, 2)), keys_net((0, 2, 3, 1), read_twice=True), transformer_net()],
    ids=["done already", "read twice", "nothing but the swap"],
)
def test_others_come_out_as_they_went_in(tmp_path: Path, model: onnx.ModelProto) -> None:
    base = source(tmp_path / "m", model)
    assert run(SplitTransposes(), base, tmp_path / "s").digest == base.digest


def test_a_vector_is_no_matrix_to_turn(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Transpose", ["k"], ["t"], perm=[0]), helper.make_node("MatMul", ["q", "t"], ["y"])]
    ends = [info("q", TensorProto.FLOAT, [3, 4]), info("k", TensorProto.FLOAT, [4])]
    graph = helper.make_graph(nodes, "net", ends, [info("y", TensorProto.FLOAT, [3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made = run(SplitTransposes(), source(tmp_path / "m", model), tmp_path / "s")
    assert [node.op_type for node in onnx.load(str(made.main)).graph.node] == ["Transpose", "MatMul"]
