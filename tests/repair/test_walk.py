"""A model walked piece by piece has the values of the model run whole; values wait in memory or on disk."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import weights
from onnx import TensorProto, helper

from mlopt.repair.layers import layers_of
from mlopt.repair.shelf import Shelf
from mlopt.repair.walk import Walk


def residual_net() -> onnx.ModelProto:
    """Two convolutions around which the input goes, and one more on the sum."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["d"], name="add"),
        helper.make_node("Conv", ["d", "w3"], ["y"], name="three"),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [weights("w1", 4, 4, 3, 3), weights("w2", 4, 4, 3, 3), weights("w3", 2, 4, 1, 1)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("bound", [1 << 20, 0], ids=["memory", "disk"])
def test_every_layer_reads_what_it_reads_in_the_whole_model(tmp_path: Path, bound: int) -> None:
    model = residual_net()
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [layer.input for layer in layers_of(model.graph)]
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "x")
    session = ort.InferenceSession(watched.SerializeToString())
    feeds = [{"x": np.random.default_rng(seed).standard_normal((1, 4, 6, 6)).astype(np.float32)} for seed in range(3)]
    walk = Walk(model, Shelf(tmp_path, bound), 3)
    for sample, feed in enumerate(feeds):
        walk.start(sample, feed)
    whole = [feed | dict(zip(["b", "d"], session.run(None, feed), strict=True)) for feed in feeds]
    for name in names:
        for seen, values in zip(walk.reach(name), whole, strict=True):
            assert np.allclose(seen, values[name], atol=1e-5)
    assert bool(list(tmp_path.iterdir())) == (bound == 0)


def test_a_changed_constant_changes_what_comes_after_it(tmp_path: Path) -> None:
    walk = Walk(residual_net(), Shelf(tmp_path, 1 << 20), 1)
    x = np.ones((1, 4, 6, 6), np.float32)
    walk.start(0, {"x": x})
    assert np.array_equal(next(walk.reach("x")), x)
    walk.constants["w1"] = np.zeros_like(walk.constants["w1"])
    assert not next(walk.reach("b")).any()
    assert np.array_equal(next(walk.reach("d")), x), "the convolutions add nothing to what went around them"


@pytest.mark.parametrize("bound", [0, 100, 1 << 20])
def test_a_shelf_gives_back_what_was_put_there(tmp_path: Path, bound: int) -> None:
    shelf = Shelf(tmp_path, bound)
    values = [np.arange(12, dtype=dtype).reshape(3, 4) for dtype in ("float32", "int8", "uint8")]
    for sample, value in enumerate(values):
        shelf.put("x", sample, value)
    for sample, value in enumerate(values):
        found = shelf.get("x", sample)
        assert np.array_equal(found, value)
        assert found.dtype == value.dtype
    shelf.drop("x", 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "1").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        Shelf(tmp_path, 0).put("x", 0, np.zeros(1 << 16, np.float32))
    assert caught.value.errno == errno.ENOSPC, "mlopt says what to do by this number"
