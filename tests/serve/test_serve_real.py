"""Real models behind the server: the picture's class, and a model with several inputs and state."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from test_serve_app import started

from mlopt.image.serving import describe_serving, encode_serving
from mlopt.serve.preprocess import Preprocess

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real models are not beside the checkout (../shared/data)"),
]
IMAGENET = Preprocess(resize=256, crop=(224, 224), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@contextmanager
def serving(model: Path, folder: Path, **options: Any) -> Iterator[TestClient]:
    shutil.copy(model, folder / "model.onnx")
    spec = describe_serving(folder / "model.onnx", name="real", **options)
    (folder / "serving.json").write_bytes(encode_serving(spec))
    client = started(folder)
    try:
        yield client
    finally:
        client.__exit__(None, None, None)


def test_squeezenet_names_pictures_as_measured_elsewhere(tmp_path: Path) -> None:
    """48.9 % of all 456 pictures are right (README of the data); of these 60 it is the same within chance."""
    with (DATA / "nips17_imagenet" / "labels.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:60]
    model = DATA / "models" / "onnx" / "squeezenet1_0.onnx"
    with serving(model, tmp_path, preprocess=IMAGENET.as_json(), task="classify") as client:
        right = 0
        for row in rows:
            reply = client.post("/v1/classify?top=1", content=(DATA / "nips17_imagenet" / row["file"]).read_bytes())
            right += reply.json()["classes"][0]["index"] == int(row["class_index"])
    assert 18 <= right <= 41, right


def test_a_model_with_state_and_a_scalar_input(tmp_path: Path) -> None:
    model = next((DATA / "silero_vad").glob("*op15.onnx"), None) or next(DATA.rglob("silero_vad_16k_op15.onnx"))
    tensors = {
        "input": ([1, 576], "FP32", [0.0] * 576),
        "state": ([2, 1, 128], "FP32", [0.0] * 256),
        "sr": ([], "INT64", [16000]),
    }
    with serving(model, tmp_path) as client:
        inputs = [
            {"name": name, "shape": shape, "datatype": datatype, "data": data}
            for name, (shape, datatype, data) in tensors.items()
        ]
        reply = client.post("/v2/models/real/infer", json={"inputs": inputs})
        assert reply.status_code == 200, reply.text
        outputs = {output["name"]: output for output in reply.json()["outputs"]}
        assert outputs["stateN"]["shape"] == [2, 1, 128]
        assert 0 <= outputs["output"]["data"][0] < 0.1, "silence is not speech"
        inputs[1]["shape"], inputs[1]["data"] = [2, 7, 128], np.zeros(1792).tolist()
        reply = client.post("/v2/models/real/infer", json={"inputs": inputs})
        assert reply.status_code == 400, "two inputs that do not fit each other are the client's fault"
        assert client.post("/v1/classify", content=b"x").status_code == 404
