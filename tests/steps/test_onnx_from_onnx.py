"""Normalising ONNX: a batch dimension that is true, an opset in range, named nodes, the same bytes twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.artifact import Artifact
from mlopt.convert.process import Limits
from mlopt.errors import ExportFailed, Misused, ModelUnreadable, UnsupportedModel
from mlopt.signature import signature
from mlopt.source import export_step, open_model
from mlopt.steps.normalize_onnx import NormalizeOnnx
from mlopt.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def made(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    shape: list[int | str],
    out: list[int | str],
    opset: int = 17,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def reshaping(rows: int, *, leading: int | str) -> onnx.ModelProto:
    """[leading, 6] to [rows, 3, 2], then to what a linear layer makes of it."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["cut"]),
        helper.make_node("MatMul", ["cut", "w"], ["y"]),
    ]
    weights = {"shape": np.array([rows, 3, 2], dtype=np.int64), "w": np.ones((2, 4), dtype=np.float32)}
    return made(nodes, weights, shape=[leading, 6], out=[leading, 3, 4])


def normalized(model: onnx.ModelProto, tmp_path: Path, store: Store, **options: int) -> Artifact:
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    source = open_model(path, store=store)
    return store.run(NormalizeOnnx(**options), source)


def run(artifact: Artifact, batch: int) -> np.ndarray:
    session = ort.InferenceSession(str(artifact.main), providers=["CPUExecutionProvider"])
    feed = np.arange(batch * 6, dtype=np.float32).reshape(batch, 6)
    answer: np.ndarray = session.run(None, {"x": feed})[0]
    return answer


def test_a_fixed_batch_becomes_dynamic_where_that_is_right(tmp_path: Path, store: Store) -> None:
    result = normalized(reshaping(1, leading=1), tmp_path, store)
    assert signature(result).input("x").shape == ("batch", 6)
    together = run(result, 4)
    assert together.shape == (4, 3, 4)
    assert np.allclose(together[0], run(result, 1)[0])


def test_a_dynamic_batch_on_paper_only_becomes_fixed(tmp_path: Path, store: Store) -> None:
    """A Reshape to exactly one row under a dynamic input: exporters write that silently."""
    result = normalized(reshaping(1, leading="N"), tmp_path, store)
    assert signature(result).input("x").shape == (1, 6)
    assert run(result, 1).shape == (1, 3, 4)


def test_a_leading_dimension_that_mixes_rows_stays_fixed(tmp_path: Path, store: Store) -> None:
    """Softmax over axis 0 mixes rows: with a dynamic leading dimension it would not be a batch."""
    model = made([helper.make_node("Softmax", ["x"], ["y"], axis=0)], {}, shape=[2, 6], out=[2, 6])
    result = normalized(model, tmp_path, store)
    assert signature(result).input("x").shape == (2, 6)


def test_nodes_get_unique_names_and_notes_go(tmp_path: Path, store: Store) -> None:
    model = reshaping(1, leading=1)
    model.graph.node[0].name = model.graph.node[1].name = "same"
    model.graph.node[0].doc_string = "File /home/someone/train.py, line 3"
    model.metadata_props.add(key="author", value="someone")
    result = onnx.load(str(normalized(model, tmp_path, store).main))
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    assert b"someone" not in result.SerializeToString()


def test_opset_is_raised_to_the_minimum_and_lowered_to_the_target(tmp_path: Path, store: Store) -> None:
    old = made([helper.make_node("Relu", ["x"], ["y"])], {}, shape=["N", 6], out=["N", 6], opset=11)
    assert signature(normalized(old, tmp_path, store)).opset == 13
    new = made([helper.make_node("Relu", ["x"], ["y"])], {}, shape=["N", 6], out=["N", 6], opset=20)
    assert signature(normalized(new, tmp_path, store, opset=17)).opset == 17
    between = made([helper.make_node("Relu", ["x"], ["y"])], {}, shape=["N", 6], out=["N", 6], opset=15)
    assert signature(normalized(between, tmp_path, store)).opset == 15


def test_erfc_is_written_as_erf(tmp_path: Path, store: Store) -> None:
    model = made([helper.make_node("Erfc", ["x"], ["y"])], {}, shape=["N", 6], out=["N", 6])
    result = normalized(model, tmp_path, store)
    assert "Erfc" not in signature(result).op_types
    assert np.allclose(run(result, 1)[0, 0], 1.0)
    assert np.allclose(run(result, 1)[0, 1], 0.1572992, atol=1e-6)


def test_an_operator_that_onnx_does_not_have_is_named(tmp_path: Path, store: Store) -> None:
    model = made([helper.make_node("Frobnicate", ["x"], ["y"], name="odd")], {}, shape=["N", 6], out=["N", 6])
    with pytest.raises(UnsupportedModel, match="Frobnicate") as raised:
        normalized(model, tmp_path, store)
    assert "odd" in raised.value.where


def test_an_operator_of_another_domain_is_named(tmp_path: Path, store: Store) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="odd", domain="my.ops")
    model = made([node], {}, shape=["N", 6], out=["N", 6])
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    with pytest.raises(UnsupportedModel, match="Frobnicate"):
        normalized(model, tmp_path, store)
    assert not list((store.root / "scratch").iterdir())


def test_a_graph_that_contradicts_itself(tmp_path: Path, store: Store) -> None:
    weights = {"w": np.ones((5, 3), dtype=np.float32)}
    model = made([helper.make_node("MatMul", ["x", "w"], ["y"])], weights, shape=["N", 6], out=["N", 3])
    with pytest.raises(UnsupportedModel, match="ONNX Runtime cannot"):
        normalized(model, tmp_path, store)


def test_external_weights_stay_in_their_file(tmp_path: Path, store: Store) -> None:
    model = reshaping(1, leading=1)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(np.ones((2, 4), dtype=np.float32), "w"))
    onnx.save_model(model, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=60)
    source = open_model(tmp_path / "m.onnx", store=store)
    result = store.run(NormalizeOnnx(), source)
    assert {file.name for file in result.path.iterdir()} == {"model.onnx", "w.bin"}
    assert result.main.stat().st_size < 600
    assert run(result, 2).shape[-1] == 4


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    digests = {normalized(reshaping(1, leading=1), tmp_path, Store(tmp_path / name)).digest for name in "ab"}
    assert len(digests) == 1


def test_a_converter_that_runs_too_long_leaves_nothing(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(reshaping(1, leading=1).SerializeToString())
    source = open_model(path, store=store)
    step = export_step(source, opset=18, limits=Limits(seconds=0.05))
    with pytest.raises(ExportFailed, match="was stopped after") as raised:
        store.run(step, source)
    assert "MLOPT_CONVERT_SECONDS" in raised.value.next
    assert len(list((store.root / "results").iterdir())) == 1, "only the adopted source"
    assert not list((store.root / "scratch").iterdir())
    again = export_step(source, opset=18, limits=Limits(seconds=600))
    assert store.run(again, source).format == "onnx", "a failure is not remembered"


def test_a_converter_short_of_memory_says_so(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(reshaping(1, leading=1).SerializeToString())
    source = open_model(path, store=store)
    with pytest.raises(ExportFailed) as raised:
        store.run(export_step(source, opset=18, limits=Limits(memory=30 << 20)), source)
    assert "MLOPT_CONVERT_GIB" in raised.value.next


def test_limits_are_no_part_of_a_key(tmp_path: Path, store: Store) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(reshaping(1, leading=1).SerializeToString())
    source = open_model(path, store=store)
    first = store.run(export_step(source, opset=18, limits=Limits(seconds=60)), source)
    second = store.run(export_step(source, opset=18, limits=Limits(seconds=61)), source)
    assert first.path == second.path


def test_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPT_CONVERT_GIB", "0.5")
    assert Limits().memory == 1 << 29
    monkeypatch.setenv("MLOPT_CONVERT_GIB", "much")
    with pytest.raises(Misused, match="MLOPT_CONVERT_GIB"):
        Limits()


def test_a_model_without_nodes(tmp_path: Path, store: Store) -> None:
    empty = made([], {}, shape=["N", 6], out=["N", 6])
    path = tmp_path / "m.onnx"
    path.write_bytes(empty.SerializeToString())
    with pytest.raises(ModelUnreadable, match="no nodes"):
        open_model(path, store=store)
