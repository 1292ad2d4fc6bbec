"""The server with each runtime: the same answers, from several threads at once, and a word when one is not there."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mlopt.serve.model import Model, NotServable, read_serving
from mlopt.serve.runtimes import RUNTIMES
from mlopt.serve.tensors import Rejected
from mlopt.tflite.wrapper import save_wrapped

NEEDS = {"openvino": pytest.mark.openvino, "litert": pytest.mark.litert}
EACH = [pytest.param(name, marks=NEEDS.get(name, ())) for name in RUNTIMES]


def folder_for(runtime: str | None, model_folder: Path, into: Path) -> Path:
    """The model with a serving.json that names this runtime; one of an older mlopt names none."""
    serving = json.loads((model_folder / "serving.json").read_text())
    del serving["runtime"]
    if runtime == "litert":
        save_wrapped(model_folder / "model.onnx", into)
    else:
        (into / "model.onnx").write_bytes((model_folder / "model.onnx").read_bytes())
    (into / "serving.json").write_text(json.dumps(serving | ({"runtime": runtime} if runtime else {})))
    return into


def load(folder: Path) -> Model:
    model = Model(folder, read_serving(folder))
    model.warm_up()
    return model


@pytest.mark.parametrize("runtime", EACH)
def test_many_threads_get_each_their_own_answer(runtime: str, model_folder: Path, tmp_path: Path) -> None:
    model = load(folder_for(runtime, model_folder, tmp_path))
    assert model.serving.metadata()["platform"] == f"{runtime}_onnx"
    pictures = np.random.default_rng(0).random((64, 1, 3, 8, 8), dtype=np.float32)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda picture: model.infer({"pixels": picture})["scores"], pictures))
    for picture, scores in zip(pictures, found, strict=True):
        np.testing.assert_allclose(scores, 4 * picture.mean(axis=(2, 3)), rtol=1e-5)


@pytest.mark.parametrize("runtime", EACH)
def test_a_shape_that_the_model_cannot_take_is_the_client_s_fault(
    runtime: str, model_folder: Path, tmp_path: Path
) -> None:
    model = load(folder_for(runtime, model_folder, tmp_path))
    with pytest.raises(Rejected, match="the model refuses these inputs"):
        model.infer({"pixels": np.zeros((1, 3, 9, 9), np.float32)})


@pytest.mark.parametrize("runtime", EACH)
def test_a_damaged_model_is_named(runtime: str, model_folder: Path, tmp_path: Path) -> None:
    folder = folder_for(runtime, model_folder, tmp_path)
    for file in folder.glob("model.*"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(NotServable, match=r"model\.onnx cannot be loaded"):
        load(folder)


def test_a_file_that_names_no_runtime_means_onnx_runtime(model_folder: Path, tmp_path: Path) -> None:
    assert read_serving(folder_for(None, model_folder, tmp_path)).runtime == "onnxruntime"


def test_a_runtime_that_the_server_does_not_have_is_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotServable, match="its runtime is 'tensorrt'; this server has onnxruntime, openvino"):
        read_serving(folder_for("tensorrt", model_folder, tmp_path))


def test_a_runtime_that_is_not_installed_is_named(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # so that importing it fails
    with pytest.raises(NotServable, match="openvino is not installed here"):
        load(folder_for("openvino", model_folder, tmp_path))
