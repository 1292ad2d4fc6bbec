"""The server's routes, spoken to as a client would: right answers, and a 4xx for every wrong question."""

from __future__ import annotations

import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from mlopt import serve
from mlopt.serve.app import SERVER_VERSION, make_app
from mlopt.serve.model import Model, NotServable, read_serving
from mlopt.serve.settings import Limits

INFER = "/v2/models/colours/infer"


def started(folder: Path, limits: Limits = Limits()) -> TestClient:  # noqa: B008 - frozen
    client = TestClient(make_app(folder, limits=limits, failed=pytest.fail), raise_server_exceptions=False)
    client.__enter__()
    deadline = time.monotonic() + 20
    while client.get("/v2/health/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return client


@pytest.fixture(scope="module")
def client(model_folder: Path) -> Iterator[TestClient]:
    client = started(model_folder)
    yield client
    client.__exit__(None, None, None)


def tensor(**changes: Any) -> dict[str, Any]:
    return {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192} | changes


def picture(colour: tuple[int, int, int], *, format: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, format)
    return stream.getvalue()


def test_infer_computes_what_the_model_computes(client: TestClient) -> None:
    data = np.random.default_rng(0).random((2, 3, 8, 8), dtype=np.float32)
    for values in (data.ravel().tolist(), data.tolist()):
        reply = client.post(INFER, json={"id": "a", "inputs": [tensor(shape=[2, 3, 8, 8], data=values)]})
        assert reply.status_code == 200
        answer = reply.json()
        assert (answer["model_name"], answer["model_version"], answer["id"]) == ("colours", "3", "a")
        (output,) = answer["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("scores", "FP32", [2, 3])
        np.testing.assert_allclose(np.reshape(output["data"], (2, 3)), 4 * data.mean(axis=(2, 3)), rtol=1e-5)


def test_metadata_and_health(client: TestClient) -> None:
    assert client.get("/v2").json() == {
        "name": "mlopt",
        "version": SERVER_VERSION,
        "extensions": ["binary_tensor_data"],
    }
    assert client.get("/v2/health/live").json() == {"live": True}
    for path in ("/v2/models/colours", "/v2/models/colours/versions/3"):
        meta = client.get(path).json()
        assert meta["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 3, 8, 8]}]
        assert meta["versions"] == ["3"]
        assert client.get(f"{path}/ready").status_code == 200
    for path in ("/v2/models/other", "/v2/models/colours/versions/4", "/v2/models/other/ready", "/nowhere"):
        reply = client.get(path)
        assert reply.status_code == 404
        assert reply.json()["error"]
    assert client.get(INFER).status_code == 405


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (None, "inputs must be a list"),
        ([], "is missing"),
        ([tensor(), tensor()], "given twice"),
        ([tensor(name="x")], "no input 'x'"),
        ([tensor(datatype="FP64")], "must be FP32"),
        ([tensor(datatype=None)], "must be FP32"),
        ([tensor(shape=[1, 3, 8])], "it must be"),
        ([tensor(shape=[1, 3, 8, 9])], "it must be"),
        ([tensor(shape=[0, 3, 8, 8], data=[])], "above 0"),
        ([tensor(shape=[-1, 3, 8, 8])], "above 0"),
        ([tensor(shape=[True, 3, 8, 8])], "above 0"),
        ([tensor(shape=[2**40, 3, 8, 8])], "above 0"),
        ([tensor(shape=[2**30, 3, 8, 8])], "needs"),
        ([tensor(data=[0.5] * 191)], "191 values"),
        ([tensor(data=[[0.5] * 192])], "in shape"),
        ([tensor(data=[[0.5], 1])], "not a regular array"),
        ([tensor(data=["x"] * 192)], "not all FP32"),
        ([tensor(data=[None] * 192)], "not all FP32"),
        ([tensor(data=[True] * 192)], "not all FP32"),
        ([tensor(data=[{}] * 192)], "not all FP32"),
        ([tensor(data="abc")], "no data"),
        ([5], "inputs must be a list"),
    ],
)
def test_a_wrong_tensor_is_named(client: TestClient, inputs: Any, says: str) -> None:
    reply = client.post(INFER, json={"inputs": inputs})
    assert reply.status_code == 400
    assert says in reply.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 100_000])
def test_what_is_not_a_request_is_a_400(client: TestClient, body: bytes) -> None:
    assert client.post(INFER, content=body).status_code == 400


@pytest.mark.parametrize("outputs", [[{"name": "no"}], [{}], ["scores"], 7, [{"name": "scores"}] * 2])
def test_wrong_outputs_are_a_400(client: TestClient, outputs: Any) -> None:
    assert client.post(INFER, json={"inputs": [tensor()], "outputs": outputs}).status_code == 400


def test_a_refusal_does_not_repeat_all_that_was_sent(client: TestClient) -> None:
    reply = client.post(INFER, json={"inputs": [tensor(name="x" * 100_000)]})
    assert (reply.status_code, len(reply.json()["error"])) == (400, 600)


def test_what_is_not_finite_becomes_null(client: TestClient) -> None:
    reply = client.post(INFER, json={"inputs": [tensor(data=[1e36] * 192)]})
    assert reply.json()["outputs"][0]["data"] == [pytest.approx(4e36, rel=1e-3)] * 3
    reply = client.post(INFER, json={"inputs": [tensor(data=[1e308] * 192)]})
    assert reply.json()["outputs"][0]["data"] == [None] * 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(["name", "shape", "datatype", "data", "parameters"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(FIELDS, JSON, max_size=3), extra=st.dictionaries(st.text(max_size=8), JSON, max_size=2))
def test_no_request_makes_a_5xx(client: TestClient, changes: dict[str, Any], extra: dict[str, Any]) -> None:
    body = json.dumps({"inputs": [tensor(**changes)], **extra}).encode(errors="replace")
    reply = client.post(INFER, content=body)
    assert reply.status_code in (200, 400), reply.text


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cut=st.integers(0, 400), flip=st.integers(0, 10_000), format=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "BMP"])
)
def test_no_picture_makes_a_5xx(client: TestClient, cut: int, flip: int, format: str) -> None:
    body = bytearray(picture((200, 10, 10), format=format))
    if body:
        body[flip % len(body)] ^= 0xFF
    reply = client.post("/v1/classify", content=bytes(body[: len(body) - cut] if cut < len(body) else body))
    assert reply.status_code in (200, 400, 413, 415), reply.text


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_a_picture_gets_its_classes(client: TestClient, format: str) -> None:
    for colour, name in [((255, 0, 0), "red"), ((0, 255, 0), "green"), ((0, 0, 255), "</script><b>blue")]:
        answer = client.post("/v1/classify?top=2", content=picture(colour, format=format)).json()
        assert answer["classes"][0]["name"] == name
        assert len(answer["classes"]) == 2
        assert answer["classes"][0]["probability"] == pytest.approx(np.e**4 / (np.e**4 + 2), abs=0.02)


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        (b"", "", 400),
        (b"not a picture", "", 415),
        (b"%PDF-1.4", "", 415),
        (picture((0, 0, 0)), "?top=0", 400),
        (picture((0, 0, 0)), "?top=-1", 400),
        (picture((0, 0, 0)), "?top=x", 400),
        (picture((0, 0, 0)), "?top=\u0663", 400),
        (picture((0, 0, 0), format="PNG", size=(7000, 7000)), "", 413),
    ],
)
def test_a_wrong_picture_is_refused(client: TestClient, body: bytes, query: str, status: int) -> None:
    reply = client.post(f"/v1/classify{query}", content=body)
    assert reply.status_code == status
    assert reply.json()["error"]


def test_metrics_count_by_route_and_code(client: TestClient) -> None:
    def count(text: str) -> float:
        found = re.search(r'mlopt_requests_total\{code="400",model="colours",route="infer",version="3"\} (\S+)', text)
        return float(found[1]) if found else 0.0

    before = count(client.get("/metrics").text)
    client.post(INFER, content=b"{")
    text = client.get("/metrics").text
    assert count(text) == before + 1
    assert 'mlopt_model_info{model="colours",version="3"} 1.0' in text
    assert "mlopt_stage_seconds_bucket" in text
    assert 'mlopt_ready{model="colours",version="3"} 1.0' in text
    client.get("/a-scanner-asks-for-this")
    assert "scanner" not in client.get("/metrics").text


def test_the_page_is_whole_and_safe(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.status_code == 200
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", reply.text)
    assert "{{" not in reply.text
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    facts = re.search(r'<script type="application/json" id="facts">(.*?)</script>', reply.text)
    assert facts
    assert json.loads(facts[1])["classifies"] is True


def test_probes_while_it_loads_are_not_logged_and_ready_comes_first(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    release, warm_up = threading.Event(), Model.warm_up

    def slow(self: Model) -> None:
        release.wait(10)
        warm_up(self)

    monkeypatch.setattr(Model, "warm_up", slow)
    monkeypatch.setattr(logging.getLogger("mlopt.serve"), "propagate", True)
    caplog.set_level(logging.INFO, "mlopt.serve")
    with TestClient(make_app(model_folder, limits=Limits(), failed=pytest.fail)) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        release.set()
        deadline = time.monotonic() + 20
        while client.get("/v2/health/ready").status_code != 200:
            assert time.monotonic() < deadline
        client.get("/metrics")
        client.get("/v2/health/nonsense")
        assert client.post(INFER, json={"inputs": [tensor()]}).status_code == 200
    said = [(record.message, getattr(record, "code", None)) for record in caplog.records]
    assert said == [("ready", None), ("request", 404), ("request", 200)]


def test_a_bug_while_loading_ends_the_server_with_its_traceback(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Model, "warm_up", lambda self: {}["absent"])
    monkeypatch.setattr(logging.getLogger("mlopt.serve"), "propagate", True)
    reasons: list[str] = []
    with TestClient(make_app(model_folder, limits=Limits(), failed=reasons.append)):
        pass
    assert len(reasons) == 1
    assert "KeyError" in reasons[0]
    assert any(record.exc_info for record in caplog.records)


def test_request_ids_are_kept_or_made(client: TestClient) -> None:
    assert client.get("/v2", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert re.fullmatch("[0-9a-f]{32}", client.get("/v2", headers={"X-Request-Id": "no\tgood"}).headers["x-request-id"])


def test_a_body_over_the_limit_is_a_413(model_folder: Path) -> None:
    client = started(model_folder, Limits(body=1000))
    try:
        assert client.post(INFER, content=b"x" * 1001).status_code == 413
        assert client.post(INFER, content=iter([b"x" * 600, b"x" * 600])).status_code == 413
        assert client.post(INFER, content=b"x" * 1000).status_code == 400
    finally:
        client.__exit__(None, None, None)


def test_too_many_waiting_get_503_and_health_still_answers(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    infer = Model.infer

    def slow(self: Model, feeds: Any, **options: Any) -> Any:
        release.wait(10)
        return infer(self, feeds, **options)

    client = started(model_folder, Limits(concurrency=1, waiting=2))
    monkeypatch.setattr(Model, "infer", slow)
    replies: list[int] = []
    threads = [
        threading.Thread(target=lambda: replies.append(client.post(INFER, json={"inputs": [tensor()]}).status_code))
        for _ in range(3)
    ]
    try:
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 5
        while 'mlopt_in_flight{model="colours",version="3"} 3.0' not in client.get("/metrics").text:
            assert time.monotonic() < deadline
        refused = client.post(INFER, json={"inputs": [tensor()]})
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert client.get("/v2/health/ready").status_code == 200
        release.set()
        for thread in threads:
            thread.join(10)
        assert replies == [200, 200, 200]
    finally:
        release.set()
        client.__exit__(None, None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"schema": 2}',
        '{"schema": 1, "name": "x"}',
        '{"schema": 1, "name": "x", "file": "../x", "inputs": [], "outputs": []}',
        '{"schema": 1, "name": "x", "threads": 0, "inputs": [], "outputs": []}',
        '{"schema": 1, "name": "x", "inputs": [{"name": "a", "datatype": "FP99", "shape": []}], "outputs": []}',
        '{"schema": 1, "name": "x", "inputs": [], "outputs": [], "preprocess": {"layout": "X"}}',
    ],
)
def test_a_wrong_serving_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "serving.json").write_text(text)
    with pytest.raises(NotServable, match=r"serving\.json"):
        read_serving(tmp_path)


def test_the_server_says_the_version_of_mlopt() -> None:
    from importlib.metadata import version

    assert version("mlopt") == SERVER_VERSION


def test_the_server_imports_nothing_else_of_mlopt() -> None:
    folder = Path(next(iter(serve.__path__)))
    for path in folder.glob("*.py"):
        for module in re.findall(r"^\s*(?:from|import) (mlopt[\w.]*)", path.read_text(), re.M):
            assert module.startswith("mlopt.serve"), f"{path.name} imports {module}"
