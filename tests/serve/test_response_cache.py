"""Answers that are kept: for the same inputs, of the same model, within their bytes; and told to the client."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from test_serve_app import INFER, picture, started, tensor
from test_several_models import copied

from mlopt.serve.cache import Cache, digest_of
from mlopt.serve.call import Answer, Call
from mlopt.serve.metrics import Metrics, ModelMetrics
from mlopt.serve.model import Model
from mlopt.serve.settings import Limits


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The version of the model of each inference."""
    found: list[str] = []
    infer = Model.infer

    def noting(self: Model, feeds: Any, **options: Any) -> Any:
        found.append(self.serving.version)
        return infer(self, feeds, **options)

    monkeypatch.setattr(Model, "infer", noting)
    return found


@pytest.fixture(params=[None, 8], ids=["alone", "batches"])
def client(model_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """Two versions of a model: the second is the same file beside a serving.json of another version."""
    copied(model_folder, tmp_path / "models" / "3")
    copied(model_folder, tmp_path / "models" / "4", times=2)
    client = started(tmp_path / "models", Limits(cache=1 << 20, batch=request.param))
    yield client
    client.__exit__(None, None, None)


def test_the_same_inputs_are_computed_once(client: TestClient, computed: list[str]) -> None:
    path, before = INFER.replace("infer", "versions/3/infer"), len(computed)
    told = []
    for body in (
        {"id": "a", "inputs": [tensor()]},
        {"id": "b", "inputs": [tensor()]},
        {"inputs": [tensor(data=[0.25] * 192)]},
        {"inputs": [tensor()], "outputs": [{"name": "scores"}]},
    ):
        reply = client.post(path, json=body)
        told.append(reply.headers["x-cache"])
        assert reply.json().get("id") == body.get("id"), "an answer is written for its own request"
        np.testing.assert_allclose(reply.json()["outputs"][0]["data"], 4 * np.mean(body["inputs"][0]["data"]))
    assert told == ["miss", "hit", "miss", "hit"]
    assert len(computed) - before == 2
    lines = client.get("/metrics").text.splitlines()
    assert 'mlopt_cache_requests_total{model="colours",result="hit",version="3"} 2.0' in lines
    assert 'mlopt_cache_requests_total{model="colours",result="miss",version="3"} 2.0' in lines


def test_no_model_answers_for_another(client: TestClient) -> None:
    for version, score in (("3", 2.0), ("4", 4.0), ("3", 2.0), ("4", 4.0)):
        reply = client.post(f"/v2/models/colours/versions/{version}/infer", json={"inputs": [tensor()]})
        assert reply.json()["outputs"][0]["data"][0] == pytest.approx(score)
        assert reply.json()["model_version"] == version
    assert reply.headers["x-cache"] == "hit"


def test_every_protocol_finds_what_another_asked(client: TestClient) -> None:
    values = np.full((1, 3, 8, 8), 0.5).tolist()
    assert client.post(INFER, json={"inputs": [tensor()]}).headers["x-cache"] == "miss"
    reply = client.post("/v1/models/colours:predict", json={"instances": values})
    assert (reply.headers["x-cache"], reply.json()["predictions"][0][0]) == ("hit", pytest.approx(4.0))
    for wanted in ("miss", "hit"):
        reply = client.post("/v1/classify", content=picture((255, 0, 0)))
        assert reply.headers["x-cache"] == wanted
        assert reply.json()["classes"][0]["name"] == "red"


def test_a_refused_request_is_not_kept(client: TestClient) -> None:
    for _ in range(2):
        reply = client.post(INFER, json={"inputs": [tensor(shape=[1, 3, 8, 9])]})
        assert reply.status_code == 400
        assert "x-cache" not in reply.headers


def test_it_is_off_unless_asked_for(model_folder: Path) -> None:
    client = started(model_folder)
    try:
        assert "x-cache" not in client.post(INFER, json={"inputs": [tensor()]}).headers
        assert "mlopt_cache_requests_total{" not in client.get("/metrics").text
    finally:
        client.__exit__(None, None, None)


def call(*values: float, name: str = "x", outputs: tuple[str, ...] = ("y",), dtype: str = "<f4") -> Call:
    return Call({name: np.array(values, dtype)}, outputs, lambda arrays, spent: Answer(b""))


def cache(most: int, digest: bytes = b"d") -> Cache:
    return Cache(most, digest=digest, metrics=ModelMetrics(Metrics(), model="m", version="1"))


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    kept = cache(3 * (512 + 80))
    answer = {"y": np.zeros(20, np.float32)}
    keys = [kept.key(call(value)) for value in range(4)]
    for key in keys[:3]:
        kept.put(key, answer)
    assert kept.get(keys[0]) is not None
    kept.put(keys[3], answer)
    assert [kept.get(key) is not None for key in keys] == [True, False, True, True]
    kept.put(kept.key(call(9.0)), {"y": np.zeros(2000, np.float32)})
    assert [kept.get(key) is not None for key in keys] == [True, False, True, True], "too large to be kept at all"
    kept.renew("engine")
    assert kept.get(keys[0]) is None
    assert kept.key(call(0.0)) != keys[0]


def test_what_is_kept_is_its_own(model_folder: Path) -> None:
    kept, batch = cache(1 << 20), np.arange(8, dtype=np.float32)
    kept.put(b"k", {"y": batch[2:4]})
    batch[:] = 0
    found = kept.get(b"k")
    assert found is not None
    np.testing.assert_array_equal(found["y"], [2, 3])
    assert found["y"].base is None, "the whole batch would stay in memory"


def test_keys_differ_in_everything_that_decides_the_answer(model_folder: Path, tmp_path: Path) -> None:
    kept = cache(1)
    different = [
        call(1.0, 2.0),
        call(2.0, 1.0),
        call(1.0, 2.0, name="z"),
        call(1.0, 2.0, outputs=("y", "w")),
        call(1.0, 2.0, dtype="<i4"),
        Call({"x": np.array([[1.0, 2.0]], "<f4")}, ("y",), lambda arrays, spent: Answer(b"")),
        Call({"x": np.array(["a", "b"], object)}, ("y",), lambda arrays, spent: Answer(b"")),
        Call({"x": np.array(["a'", "'b"], object)}, ("y",), lambda arrays, spent: Answer(b"")),
    ]
    keys = {kept.key(one) for one in different} | {cache(1, b"other").key(call(1.0, 2.0))}
    assert len(keys) == len(different) + 1
    assert digest_of(model_folder) != digest_of(copied(model_folder, tmp_path / "x", version="4"))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 200)), max_size=60))
def test_it_never_holds_more_than_it_may(asked: list[tuple[int, int]]) -> None:
    kept = cache(2000)
    for value, length in asked:
        key = kept.key(call(float(value)))
        if kept.get(key) is None:
            kept.put(key, {"y": np.zeros(length, np.float32)})
        assert kept._held <= 2000
        assert kept._held == sum(size for _, size in kept._kept.values())
