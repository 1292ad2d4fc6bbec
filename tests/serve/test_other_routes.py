"""Clients of TensorFlow Serving and TorchServe: their requests, answered as their servers answer."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from test_serve_app import picture, started

from mlopt.image.serving import describe_serving, encode_serving

PREDICT = "/v1/models/colours:predict"
DATA = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
SCORES = 4 * DATA.mean(axis=(2, 3))


@pytest.fixture(scope="module")
def client(model_folder: Path) -> Iterator[TestClient]:
    client = started(model_folder)
    yield client
    client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Two inputs, numbers and texts, that are given back."""
    folder = tmp_path_factory.mktemp("pair")
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["a"], ["same"]),
            helper.make_node("Identity", ["t"], ["t_bytes"]),
        ],
        "pair",
        [info("a", TensorProto.INT64, ["N", 2]), info("t", TensorProto.STRING, ["N"])],
        [info("same", TensorProto.INT64, ["N", 2]), info("t_bytes", TensorProto.STRING, ["N"])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "serving.json").write_bytes(encode_serving(describe_serving(folder / "model.onnx", name="pair")))
    client = started(folder)
    yield client
    client.__exit__(None, None, None)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": DATA.tolist()},
        {"signature_name": "serving_default", "instances": [{"pixels": row} for row in DATA.tolist()]},
    ],
)
def test_rows_come_back_as_predictions(client: TestClient, body: dict[str, Any]) -> None:
    for path in (PREDICT, "/v1/models/colours/versions/3:predict"):
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        np.testing.assert_allclose(reply.json()["predictions"], SCORES, rtol=1e-5)


@pytest.mark.parametrize("inputs", [DATA.tolist(), {"pixels": DATA.tolist()}])
def test_columns_come_back_as_outputs(client: TestClient, inputs: Any) -> None:
    reply = client.post(PREDICT, json={"inputs": inputs})
    np.testing.assert_allclose(reply.json()["outputs"], SCORES, rtol=1e-5)


def test_several_tensors_are_named_in_rows_and_in_columns(pair: TestClient) -> None:
    text = {"b64": base64.b64encode("ä".encode()).decode()}
    rows = [{"a": [1, 2], "t": text}, {"a": [3, 4], "t": "x"}]
    answer = pair.post("/v1/models/pair:predict", json={"instances": rows}).json()
    x = {"b64": base64.b64encode(b"x").decode()}
    assert answer == {"predictions": [{"same": [1, 2], "t_bytes": text}, {"same": [3, 4], "t_bytes": x}]}
    answer = pair.post("/v1/models/pair:predict", json={"inputs": {"a": [[1, 2]], "t": ["x"]}}).json()
    assert answer == {"outputs": {"same": [[1, 2]], "t_bytes": [x]}}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "either instances"),
        ({"instances": [], "inputs": []}, "either instances"),
        ({"instances": []}, "at least one row"),
        ({"instances": {}}, "at least one row"),
        ({"instances": [1]}, "has shape"),
        ({"instances": [[[[]]]]}, "has shape"),
        ({"instances": [{"x": 1}]}, "row 0"),
        ({"instances": [DATA[0].tolist(), {"pixels": 1}]}, "row 0"),
        ({"instances": [DATA[0].tolist(), [1]]}, "not a regular array"),
        ({"instances": [[["a"]]]}, "has shape"),
        ({"inputs": {"x": 1}}, "an object with pixels"),
        ({"inputs": None}, "has shape"),
        ({"inputs": {"b64": "!"}}, "has shape"),
        ({"instances": DATA.tolist(), "signature_name": "other"}, "serving_default"),
    ],
)
def test_wrong_predict_requests_are_a_400(client: TestClient, body: Any, says: str) -> None:
    reply = client.post(PREDICT, json=body)
    assert reply.status_code == 400, reply.text
    assert says in reply.json()["error"]


@pytest.mark.parametrize("path", [PREDICT, "/predictions/colours"])
def test_nesting_without_end_is_a_400(client: TestClient, path: str) -> None:
    assert client.post(path, content=b'{"instances":' + b"[" * 1000 + b"]" * 1000 + b"}").status_code == 400


@pytest.mark.parametrize("text", [{"b64": "!"}, {"b64": 1}, {"b64": "/w=="}, {"x": 1}, 1, None, [["x"]]])
def test_wrong_texts_are_a_400(pair: TestClient, text: Any) -> None:
    for body in ({"instances": [{"a": [1, 2], "t": text}]}, {"inputs": {"a": [[1, 2]], "t": [text]}}):
        assert pair.post("/v1/models/pair:predict", json=body).status_code == 400


def test_status_of_the_model(client: TestClient) -> None:
    fine = {"error_code": "OK", "error_message": ""}
    for path in ("/v1/models/colours", "/v1/models/colours/versions/3"):
        status = client.get(path).json()
        assert status == {"model_version_status": [{"version": "3", "state": "AVAILABLE", "status": fine}]}
    for path in ("/v1/models/other", "/v1/models/colours/versions/9"):
        assert client.get(path).status_code == 404
    assert client.post("/v1/models/other:predict", json={"instances": [1]}).status_code == 404


def test_torchserve_ping_and_classes(client: TestClient) -> None:
    assert client.get("/ping").json() == {"status": "Healthy"}
    body = picture((0, 255, 0))
    plain = client.post("/predictions/colours", content=body)
    put = client.put("/predictions/colours/3", content=body)
    form = client.post("/predictions/colours", files={"data": ("p.png", body, "image/png")})
    for reply in (plain, put, form):
        assert reply.status_code == 200, reply.text
        assert next(iter(reply.json())) == "green"
        assert sum(reply.json().values()) == pytest.approx(1)


def test_torchserve_takes_tensors_too(client: TestClient, pair: TestClient) -> None:
    np.testing.assert_allclose(client.post("/predictions/colours", json=DATA.tolist()).json(), SCORES, rtol=1e-5)
    np.testing.assert_allclose(client.post("/predictions/colours", json=DATA[0].tolist()).json(), SCORES[0], rtol=1e-5)
    form = client.post("/predictions/colours", files={"data": b"[[1]]", "other": b"x"})
    assert form.status_code == 400
    assert "has shape [1, 1]" in form.json()["message"], "it is said of what was sent"
    envelope = client.post("/predictions/colours", json={"instances": DATA.tolist()}).json()
    np.testing.assert_allclose(envelope["predictions"], SCORES, rtol=1e-5)
    reply = pair.post("/predictions/pair", json={"instances": [{"a": [1, 2], "t": "x"}]})
    assert reply.json()["predictions"][0]["same"] == [1, 2]


@pytest.mark.parametrize(
    ("path", "content", "headers", "status"),
    [
        ("/predictions/other", b"x", {}, 404),
        ("/predictions/colours/9", b"x", {}, 404),
        ("/predictions/colours", b"no picture", {}, 415),
        ("/predictions/colours", b"[1", {}, 400),
        ("/predictions/colours", b"{}", {}, 400),
        ("/predictions/colours", b"x", {"content-type": "multipart/form-data"}, 400),
        ("/predictions/colours", b"x", {"content-type": "multipart/form-data; boundary=b"}, 400),
        ("/predictions/colours", b"--b\r\n\r\n--b--", {"content-type": "multipart/form-data; boundary=b"}, 400),
    ],
)
def test_wrong_predictions_are_refused_in_torchserves_words(
    client: TestClient, path: str, content: bytes, headers: dict[str, str], status: int
) -> None:
    reply = client.post(path, content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["code"] == status
    assert reply.json()["message"]
