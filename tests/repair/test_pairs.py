"""Sums of two neighbouring products: found in any layout, kept inside 16 bits by the smallest scales that do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from nets import conv_net, depthwise_net
from onnx import TensorProto, helper, numpy_helper

from mlopt.repair.layers import Layer, layers_of
from mlopt.repair.pairs import MOST, heaviest, overflowing, scales
from mlopt.repair.repair import paired_grids


def conv(*shape: int, groups: int = 1) -> Layer:
    return Layer("c", "x", "y", "w", "", "Conv", groups, False, shape, (), (), ())


def dense(rows: int, columns: int) -> Layer:
    return Layer("m", "x", "y", "w", "", "MatMul", 1, True, (columns, rows), (), (), ())


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        ((0, 0, 0), (1, 0, 0), True),  # two channels of one position
        ((1, 0, 0), (2, 0, 0), False),  # of different pairs
        ((0, 0, 0), (0, 0, 1), True),  # two positions of one channel
        ((0, 0, 1), (1, 0, 1), True),  # three channels, padded to four at each position
        ((2, 0, 0), (0, 0, 1), True),  # and unpadded, running on into the next position
        ((0, 0, 0), (2, 2, 2), False),
    ],
)
def test_neighbours_of_a_convolution_in_every_layout(
    first: tuple[int, ...], second: tuple[int, ...], together: bool
) -> None:
    weights = np.zeros((1, 3, 3, 3))
    weights[0][first] = weights[0][second] = 100
    assert heaviest(conv(1, 3, 3, 3), weights).tolist() == [[200.0 if together else 100.0]]
    weights[0][second] = -100
    assert heaviest(conv(1, 3, 3, 3), weights).tolist() == [[100.0]], "of unlike signs they cancel"


def test_a_product_is_paired_along_what_it_sums_over() -> None:
    weights = np.zeros((4, 3))
    weights[0, 0] = weights[1, 0] = 5  # one output's neighbours
    weights[0, 1] = weights[0, 2] = 7  # two outputs
    assert heaviest(dense(3, 4), weights).tolist() == [[10.0, 7.0, 7.0]]


@pytest.mark.parametrize("shared", [False, True])
def test_scales_are_as_small_as_neighbours_let_them_be(shared: bool) -> None:
    random = np.random.default_rng(0)
    weights = random.standard_normal((16, 8, 3, 3)).astype(np.float32)
    weights[3] = 0
    layer = conv(16, 8, 3, 3)
    found = scales(layer, weights, shared=shared)
    codes = np.rint(weights / found.reshape(16, 1, 1, 1))
    sums = heaviest(layer, codes)
    assert sums.max() <= MOST
    assert np.abs(codes).max() <= 127
    if not shared:
        full = [row for row in range(16) if row != 3]
        assert sums[0, full].min() >= MOST - 2, "no scale is larger than it must be"
        assert (found[0] < np.abs(weights).max(axis=(1, 2, 3)) / 63 + 1e-9)[full].all(), "seven bits would do worse"


def test_a_channel_by_itself_needs_no_room() -> None:
    graph = depthwise_net().graph
    alone = [one for one in layers_of(graph) if one.operator == "Conv" and one.groups > 1]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert alone
    for layer in alone:
        top = np.abs(arrays[layer.weight]).max(axis=(1, 2, 3))
        assert np.allclose(paired_grids(graph, per_channel=True)[layer.weight].scale, top / 127)


def test_grids_have_a_scale_for_each_output_or_one() -> None:
    graph = conv_net().graph
    for layer in layers_of(graph):
        each, one = (paired_grids(graph, per_channel=many)[layer.weight] for many in (True, False))
        assert len(each.scale) == layer.channels_out
        assert each.axis == (1 if layer.turned else 0)
        assert one.axis is None
        assert one.scale == (pytest.approx(max(each.scale), rel=0.3),)


def test_nodes_that_stay_as_they_are_need_no_grid() -> None:
    graph = conv_net().graph
    every = paired_grids(graph, per_channel=True)
    first, *others = layers_of(graph)
    found = paired_grids(graph, per_channel=True, but=[first.name, "somebody-else"])
    assert found == {layer.weight: every[layer.weight] for layer in others}


def product(operator: str, codes: np.ndarray) -> onnx.GraphProto:
    inputs = {"MatMulInteger": ["x", "w"], "QLinearMatMul": ["x", "s", "z", "w", "s", "z", "s", "z"]}[operator]
    node = helper.make_node(operator, inputs, ["y"], name="n")
    return helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [1, len(codes)])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [1, codes.shape[1]])],
        [numpy_helper.from_array(codes, "w")],
    )


@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul"])
def test_a_finished_model_is_read_in_every_form(operator: str) -> None:
    codes = np.zeros((4, 2), np.int8)
    codes[:2, 1] = 65
    assert overflowing(product(operator, codes)) == ("n",)
    codes[1, 1] = 63
    assert overflowing(product(operator, codes)) == ()
    codes[:2, 0] = -128
    assert overflowing(product(operator, codes)) == ("n",)
    assert overflowing(product(operator, np.full((4, 2), 255, np.uint8))) == (), "unsigned: other instructions"
