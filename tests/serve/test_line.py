"""The line before the model: who computes what, and that a bug costs one request and no thread."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from test_serve_app import INFER, picture, started, tensor

from mlopt.serve.model import Model
from mlopt.serve.settings import Limits

SMALL = {"inputs": [tensor()]}
LARGE = {"inputs": [tensor(shape=[64, 3, 8, 8], data=[0.5] * 64 * 192)]}


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each inference."""
    found: list[str] = []
    infer = Model.infer

    def noting(self: Model, feeds: Any, **options: Any) -> Any:
        found.append(threading.current_thread().name)
        return infer(self, feeds, **options)

    monkeypatch.setattr(Model, "infer", noting)
    return found


@pytest.fixture
def client(model_folder: Path) -> Iterator[TestClient]:
    client = started(model_folder)
    yield client
    client.__exit__(None, None, None)


def test_a_quick_model_is_asked_without_a_change_of_thread(threads: list[str], client: TestClient) -> None:
    for _ in range(2000):
        assert client.post(INFER, json=SMALL).status_code == 200
        if not threads[-1].startswith("infer-"):
            break
    assert threads[1].startswith("infer-"), "nobody knows yet that it is quick"
    assert not threads[-1].startswith("infer-"), "it was never found to be quick"
    assert client.post(INFER, json=LARGE).status_code == 200
    assert threads[-1].startswith("infer-"), "a large body takes its time, whatever the model does"
    assert client.post("/v1/classify", content=picture((1, 2, 3))).status_code == 200
    assert threads[-1].startswith("infer-"), "so does a picture"


def test_a_slow_model_never_holds_up_the_event_loop(
    model_folder: Path, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = Model.infer

    def slow(self: Model, feeds: Any, **options: Any) -> Any:
        threading.Event().wait(0.005)
        return infer(self, feeds, **options)

    monkeypatch.setattr(Model, "infer", slow)
    client = started(model_folder)
    try:
        for _ in range(60):
            client.post(INFER, json=SMALL)
        assert {name.startswith("infer-") for name in threads[1:]} == {True}
    finally:
        client.__exit__(None, None, None)


@pytest.mark.parametrize("limits", [Limits(), Limits(batch=4, delay=0.01)], ids=["alone", "batches"])
def test_a_bug_is_a_500_with_its_request_id_and_costs_no_thread(
    model_folder: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("mlopt.serve"), "propagate", True)
    client = started(model_folder, limits)
    try:
        with monkeypatch.context() as broken:
            broken.setattr(Model, "infer", lambda self, feeds, **options: {}["absent"])
            for _ in range(5):  # more than there are threads
                reply = client.post(INFER, json=SMALL, headers={"X-Request-Id": "mine"})
                assert (reply.status_code, reply.headers["x-request-id"]) == (500, "mine")
                assert "absent" not in reply.text
        faults = [record for record in caplog.records if record.message == "fault"]
        assert len(faults) == 5
        assert all(record.exc_info and record.request_id == "mine" for record in faults)  # type: ignore[attr-defined]
        assert client.post(INFER, json=SMALL).status_code == 200
    finally:
        client.__exit__(None, None, None)


def test_what_waits_is_answered_before_it_closes(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infer, began = Model.infer, threading.Semaphore(0)

    def slow(self: Model, feeds: Any, **options: Any) -> Any:
        began.release()
        threading.Event().wait(0.2)
        return infer(self, feeds, **options)

    client = started(model_folder, Limits(concurrency=1))
    monkeypatch.setattr(Model, "infer", slow)
    with ThreadPoolExecutor(3) as pool:
        replies = [pool.submit(client.post, INFER, json=SMALL) for _ in range(3)]
        assert began.acquire(timeout=10)
        assert [reply.result(10).status_code for reply in replies] == [200, 200, 200]
    client.__exit__(None, None, None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("infer-")]
