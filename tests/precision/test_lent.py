"""A model whose large weights are lent to sessions: the file is small, and the answers are the same to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from nets import conv_net
from trials import probe

from mlopt.precision.lent import Lent
from mlopt.precision.noise import answers


def test_what_is_lent_changes_no_bit(tmp_path: Path) -> None:
    model = conv_net(width=64)
    whole, light = tmp_path / "whole.onnx", tmp_path / "light.onnx"
    onnx.save(model, str(whole))
    before = model.SerializeToString()
    copy, lent = Lent(model).holding([])
    onnx.save(copy, str(light))
    assert set(lent) == {"w1", "w2"}, "biases and the head's weights are small"
    assert light.stat().st_size < whole.stat().st_size / 10
    feeds = list(probe(model).feeds(batch=1))
    assert np.array_equal(answers(whole, feeds)[0], answers(light, feeds, lent=lent)[0])
    assert model.SerializeToString() == before


def test_what_some_nodes_read_can_be_had(tmp_path: Path) -> None:
    model = conv_net(width=64)
    light = Lent(model)
    copy, lent = light.holding(["conv2"])
    assert set(lent) == {"w1"}
    given = {tensor.name: tensor for tensor in copy.graph.initializer}
    assert given["w2"].raw_data == next(t.raw_data for t in model.graph.initializer if t.name == "w2")
    again, _ = light.holding(["conv1"])
    assert {tensor.name for tensor in again.graph.initializer if tensor.external_data} == {"w2"}, "nothing stays given"
