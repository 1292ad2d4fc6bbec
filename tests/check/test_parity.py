"""Parity: differences as defined, what passes, and the name of the node that is wrong when one is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.artifact import Artifact, Digest
from mlopt.check.differences import difference
from mlopt.check.parity import check_parity
from mlopt.errors import ParityFailed
from mlopt.signature import InputSpec
from mlopt.source import export_step, open_model
from mlopt.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def chain(depth: int = 4) -> onnx.ModelProto:
    """Linear layers one after the other, named layer_0 and on, with a branch that joins at the end."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for number in range(depth):
        weights.append(numpy_helper.from_array(random.standard_normal((8, 8)).astype(np.float32) / 3, f"w{number}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{number}"], [f"h{number}"], name=f"layer_{number}"))
        nodes.append(helper.make_node("Tanh", [f"h{number}"], [f"t{number}"], name=f"tanh_{number}"))
        value = f"t{number}"
    nodes.append(helper.make_node("Add", [value, "t0"], ["y"], name="join"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def opened(model: onnx.ModelProto, tmp_path: Path, store: Store) -> tuple[Artifact, Artifact]:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    source = open_model(path, store=store)
    return source, store.run(export_step(source, opset=18), source)


def damaged(exported: Artifact, weight: str, into: Path) -> Artifact:
    """The export with one element of one weight changed."""
    model = onnx.load(str(exported.main))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(array, weight))
    into.mkdir()
    onnx.save(model, str(into / "model.onnx"))
    return dataclasses.replace(exported, path=into, digest=Digest("0" * 64))


def test_an_export_agrees_at_two_batch_sizes(tmp_path: Path, store: Store) -> None:
    parity = check_parity(*opened(chain(), tmp_path, store), store=store)
    assert [(one.output, one.batch) for one in parity] == [("y", 1), ("y", 3)]
    assert all(one.max_relative < 1e-4 and one.cosine > 0.999999 for one in parity)
    assert parity[0].source.startswith("onnxruntime ")


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_damaged_layer_is_named(layer: int, tmp_path: Path, store: Store) -> None:
    source, exported = opened(chain(), tmp_path, store)
    broken = damaged(exported, f"w{layer}", tmp_path / "broken")
    with pytest.raises(ParityFailed, match="output 'y' at batch 1") as raised:
        check_parity(source, broken, store=store)
    assert raised.value.where == f"values first part at layer_{layer} (MatMul)"


def test_real_feeds_are_checked_too(tmp_path: Path, store: Store) -> None:
    source, exported = opened(chain(), tmp_path, store)
    feeds = [{"x": np.full((5, 8), 0.25, dtype=np.float32)}]
    assert [one.batch for one in check_parity(source, exported, store=store, feeds=feeds)] == [1, 3, 5]


def test_what_is_said_of_an_input_is_fed(tmp_path: Path, store: Store) -> None:
    """A model that only fails far from zero: generated inputs miss it, the range that a person gives finds it."""
    nodes = [
        helper.make_node("Constant", [], ["hundred"], value_float=100.0, name="c"),
        helper.make_node("Min", ["x", "hundred"], ["y"], name="min"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    source, exported = opened(model, tmp_path, store)
    changed = onnx.load(str(exported.main))
    changed.graph.node[0].attribute[0].f = 50.0
    (tmp_path / "other").mkdir()
    onnx.save(changed, str(tmp_path / "other" / "model.onnx"))
    other = dataclasses.replace(exported, path=tmp_path / "other", digest=Digest("1" * 64))
    check_parity(source, other, store=store)
    with pytest.raises(ParityFailed):
        check_parity(source, other, store=store, inputs={"x": InputSpec(range=(0, 255))})


def test_the_answers_of_the_source_are_kept(tmp_path: Path) -> None:
    states: list[str] = []
    store = Store(tmp_path / "store", lambda step, state, seconds: states.append(f"{step.name} {state}"))
    source, exported = opened(chain(), tmp_path, store)
    for _ in range(2):
        check_parity(source, exported, store=store)
    assert states.count("reference-outputs done") == 1
    assert states.count("reference-outputs cached") == 1


def test_difference_is_as_documented() -> None:
    a = np.array([100.0, 0.0, -50.0], dtype=np.float32)
    seen = difference(a, a + np.array([1.0, 0.01, 0.0], dtype=np.float32))
    assert seen.max_absolute == 1.0
    assert seen.largest == 100.0
    assert seen.max_relative == pytest.approx(0.01 / (1e-3 * 100))
    assert 0.999 < seen.cosine < 1


def test_difference_of_infinities_shapes_and_zeros() -> None:
    inf = np.array([np.inf, np.nan, 1.0])
    assert difference(inf, inf).max_absolute == 0.0
    assert difference(inf, np.array([np.inf, 0.0, 1.0])).max_absolute == float("inf")
    assert difference(np.ones(3), np.array([1.0, np.inf, 1.0])).max_relative == float("inf")
    assert difference(np.ones(3), np.ones((3, 1))).max_relative == float("inf")
    assert difference(np.zeros(3), np.zeros(3)).max_relative == 0.0
    assert difference(np.zeros(3), np.full(3, 0.5)).max_relative == 0.5
