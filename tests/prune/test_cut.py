"""Channels that depend on each other go together: a cut graph answers as the whole one whose readers ignore them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import GRAPHS, fused_attention
from onnx import numpy_helper

from mlopt.prune.cells import Cell, cells_of, consumers_of, products_of, stopped
from mlopt.prune.channels import Channels, follow
from mlopt.prune.cut import cut
from mlopt.prune.matrices import assembled, kept_inputs, matrix
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

# By graph: what can be narrowed in steps of four, by the first node that makes it.
CELLS = {
    "plain": {"a": 16, "b": 16},
    "residual": {"stem": 16, "wide": 32},
    "padded_residual": {"stem": 16, "down": 16, "wide": 16},
    "depthwise": {"stem": 16, "expand": 32, "project": 16},
    "grouped": {"a": 8, "b": 8, "c": 16},
    "concatenated": {"stem": 16, "one": 16, "two": 8, "last": 16},
    "squeeze_excite": {"a": 16, "squeeze": 8, "b": 16},
    "flattened": {"a": 16, "hidden": 16},
    "split": {"a": 16, "b": 16},
    "mlp": {"up_product": 64},
    "attention": {"query": 4},
    "unknown": {"b": 16, "c": 16},
}


def answers(model: onnx.ModelProto, folder: Path) -> np.ndarray:
    shape = [dim.dim_value or 5 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    onnx.checker.check_model(str(path), full_check=True)
    feed = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with OnnxRuntimeRunner(path, threads=1) as runner:
        return runner.infer({"image": feed})[0]


def ignoring(model: onnx.ModelProto, channels: Channels, gone: set[int]) -> onnx.ModelProto:
    """The whole model, with zeros for the weights by which layers read the channels that are gone."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in copy.graph.initializer}
    changed: dict[str, np.ndarray] = {}
    for node in {one.node.name: one.node for one in consumers_of(channels)}.values():
        numbers = [one.number for one in consumers_of(channels) if one.node.name == node.name]
        parts = [matrix(node, arrays, number) for number in numbers]
        stay = kept_inputs(channels, node, gone)
        assert stay is not None
        for part in parts:
            part[:-1][~stay] = 0
        changed |= assembled(channels, node, parts)
    for tensor in copy.graph.initializer:
        if tensor.name in changed:
            tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name], tensor.name))
    return copy


def first_quarter(cell: Cell) -> set[int]:
    return set(cell.roots[1 : 1 + len(cell.roots) // 4])


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_what_goes_together(name: str) -> None:
    channels = follow(GRAPHS[name]())
    assert {cell.name: len(cell.roots) for cell in cells_of(channels, 4)} == CELLS[name]


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_a_cut_graph_is_the_whole_one_that_ignores_what_is_gone(name: str, tmp_path: Path) -> None:
    model = GRAPHS[name]()
    channels = follow(model)
    cells = cells_of(channels, 4)
    for some in (*([cell] for cell in cells), cells):
        gone = set().union(*(first_quarter(cell) for cell in some))
        narrow = cut(model, channels, gone, {})
        exact = answers(ignoring(model, channels, gone), tmp_path)
        assert np.abs(answers(narrow, tmp_path) - exact).max() < 1e-5 * max(1, np.abs(exact).max())
        assert narrow.ByteSize() < model.ByteSize()
    assert not np.allclose(exact, answers(model, tmp_path), atol=1e-3), "what is gone did count"


def test_the_work_is_that_of_the_cut_graph() -> None:
    model = GRAPHS["depthwise"]()
    channels = follow(model)
    gone = set().union(*(first_quarter(cell) for cell in cells_of(channels, 4)))
    after = follow(onnx.shape_inference.infer_shapes(cut(model, channels, gone, {})))
    assert sum(one.work(gone) for one in products_of(channels)) == sum(one.work(()) for one in products_of(after))
    stem, depth, head = 64 * 3 * 9 * 16, 64 * 9 * 32, 16 * 10
    assert sum(one.work(()) for one in products_of(channels)) == stem + depth + head + 2 * 64 * 16 * 32


def test_an_operator_that_is_not_known_stops_its_channels_and_is_named() -> None:
    held = stopped(follow(GRAPHS["unknown"]()))
    assert held == {"a": "node sums (CumSum)", "head": "output 'logits'"}


def test_weights_that_are_listed_as_inputs_are_cut_all_the_same(tmp_path: Path) -> None:
    model = GRAPHS["plain"]()
    for tensor in model.graph.initializer:
        if tensor.name.startswith(("a_", "b_")):
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, 1, tensor.dims))
    channels = follow(model)
    narrow = cut(model, channels, first_quarter(cells_of(channels, 4)[0]), {})
    assert answers(narrow, tmp_path).shape == (5, 10)


@pytest.mark.parametrize(("axis", "held"), [({"axis": 1}, True), ({}, True), ({"axis": 3}, False)])
def test_a_softmax_over_channels_stops_them(axis: dict[str, int], held: bool) -> None:
    model = GRAPHS["plain"]()
    node = next(node for node in model.graph.node if node.name == "ra")
    node.op_type = "Softmax"
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in axis.items())
    assert ("a" in stopped(follow(model))) == held


def test_query_key_and_value_from_one_product_stay_whole() -> None:
    channels = follow(fused_attention())
    assert {cell.name for cell in cells_of(channels, 1)} == {"out"}
    assert stopped(channels)["all"].startswith("node query_squeezed")


def test_what_a_sub_graph_reads_stays() -> None:
    model = GRAPHS["plain"]()
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["ra_out"], ["mean"], name="inner", keepdims=0)],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("mean", onnx.TensorProto.FLOAT, [])],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(
        onnx.helper.make_node("If", ["yes"], ["aside"], name="if", then_branch=branch, else_branch=branch)
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("aside", onnx.TensorProto.FLOAT, []))
    channels = follow(model)
    assert {cell.name for cell in cells_of(channels, 4)} == {"b"}
    assert stopped(channels)["a"] == "node if (If)"


@pytest.mark.parametrize(("multiple", "kept"), [(1, 16), (4, 4), (8, 2), (16, 1)])
def test_widths_that_may_stay_are_multiples(multiple: int, kept: int) -> None:
    cells = {cell.name: cell for cell in cells_of(follow(GRAPHS["residual"]()), multiple)}
    if multiple == 16:
        assert cells.keys() == {"wide"}, "the stem is one block wide"
        assert cells["wide"].kept == (32, 16)
        return
    assert len(cells["stem"].kept) == kept
    assert all(width % multiple == 0 and width > 0 for cell in cells.values() for width in cell.kept)


def test_a_width_that_is_no_multiple_becomes_one() -> None:
    (cell,) = [cell for cell in cells_of(follow(GRAPHS["plain"]()), 6) if cell.name == "a"]
    assert cell.kept == (16, 12, 6)
