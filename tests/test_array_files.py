"""Arrays handed from one process to another: tensors may have any name, those of np.savez's own parameters too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import save
from onnx import TensorProto, helper

from mlopt.array_files import load_arrays, save_arrays
from mlopt.measure.process import Worker, write_feeds
from mlopt.runners.trial import survive

NAMES = [("file", "x"), ("allow_pickle", "args/0"), ("names", "v0")]


def sum_of(names: tuple[str, str]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in (*names, "y")]
    graph = helper.make_graph([helper.make_node("Add", list(names), ["y"], name="sum")], "sum", values[:2], values[2:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_every_set_comes_back_in_order(tmp_path: Path) -> None:
    for number, names in enumerate(NAMES):
        save_arrays(tmp_path, number, {name: np.full((2, 3), number + at) for at, name in enumerate(names)})
    found = list(load_arrays(tmp_path))
    assert [tuple(arrays) for arrays in found] == NAMES
    assert [[int(value[0, 0]) for value in arrays.values()] for arrays in found] == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("names", NAMES)
def test_a_model_is_tried_and_timed_whatever_its_inputs_are_called(names: tuple[str, str], tmp_path: Path) -> None:
    model = save(sum_of(names), tmp_path / "model.onnx")
    feeds = {name: np.ones((1, 2), np.float32) for name in names}
    survive("onnxruntime", model, feeds)
    away = model.rename(tmp_path / "away.onnx")
    survive("onnxruntime", model, feeds)  # it is known now, and is tried no more
    away.rename(model)
    folder = str(write_feeds(tmp_path / "feeds", [feeds]))
    worker = Worker.start("sum")
    try:
        worker.ask("load", runtime="onnxruntime", model=str(model), threads=1, single=folder, offline=folder)
        assert len(worker.ask("query", count=3)["seconds"]) == 3
    finally:
        worker.stop()
