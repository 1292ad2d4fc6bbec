"""Several models and versions in one server: each asked by its name, counted by its name, refused by its name."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, quiet_server
from test_serve_app import picture, started, tensor

from mlopt.image.run import free_port
from mlopt.serve.memory import size_of
from mlopt.serve.model import NotServable
from mlopt.serve.repository import find_models
from mlopt.serve.settings import Limits


def copied(model: Path, to: Path, *, times: float = 1, **changes: Any) -> Path:
    """The model of three colours, its scores so many times as large."""
    shutil.copytree(model, to)
    graph = onnx.load(to / "model.onnx")
    (weight,) = graph.graph.initializer
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(times), "weight"))
    onnx.save(graph, to / "model.onnx")
    serving = json.loads((to / "serving.json").read_bytes())
    (to / "serving.json").write_text(json.dumps(serving | changes))
    return to


@pytest.fixture(scope="module")
def models(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of `colours` the versions 9 and 10, in folders of those names; `plain` as it is, and knows no pictures."""
    root = tmp_path_factory.mktemp("models")
    copied(model_folder, root / "a" / "9" / "model", times=9)
    copied(model_folder, root / "a" / "10", times=10)
    copied(model_folder, root / "plain", name="plain", version="beta", preprocess=None)
    (root / ".hidden").mkdir()
    shutil.copy(model_folder / "serving.json", root / ".hidden" / "serving.json")
    (root / "empty").mkdir()
    return root


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[TestClient]:
    client = started(models)
    yield client
    client.__exit__(None, None, None)


def first_score(reply: Any) -> float:
    assert reply.status_code == 200, reply.text
    found: float = reply.json()["outputs"][0]["data"][0]
    return found


BODY = {"inputs": [tensor(data=[1.0] * 192)]}


@pytest.mark.parametrize(
    ("path", "times", "version"),
    [
        ("/v2/models/colours/versions/9", 9, "9"),
        ("/v2/models/colours/versions/10", 10, "10"),
        ("/v2/models/colours", 10, "10"),  # 10 is after 9
        ("/v2/models/plain", 1, "beta"),
        ("/v2/models/plain/versions/beta", 1, "beta"),
    ],
)
def test_each_is_asked_by_its_name_and_version(client: TestClient, path: str, times: int, version: str) -> None:
    reply = client.post(f"{path}/infer", json=BODY)
    assert first_score(reply) == pytest.approx(4 * times)
    assert reply.json()["model_version"] == version
    assert client.get(f"{path}/ready").json() == {"name": reply.json()["model_name"], "ready": True}


def test_the_other_protocols_ask_by_name_and_version_too(client: TestClient) -> None:
    row = {"instances": np.ones((1, 3, 8, 8)).tolist()}
    for path, times in [
        ("/v1/models/colours:predict", 10),
        ("/v1/models/colours/versions/9:predict", 9),
        ("/v1/models/plain:predict", 1),
    ]:
        assert client.post(path, json=row).json()["predictions"][0][0] == pytest.approx(4 * times), path
    for path, times in [("/predictions/colours", 10), ("/predictions/colours/9", 9), ("/predictions/plain/beta", 1)]:
        assert client.post(path, json=row["instances"]).json()[0][0] == pytest.approx(4 * times), path


@pytest.mark.parametrize(
    ("method", "path", "says"),
    [
        ("POST", "/v2/models/absent/infer", "colours, plain"),
        ("POST", "/v2/models/colours/versions/3/infer", "10, 9 of colours"),
        ("GET", "/v2/models/colours/versions/11", "10, 9 of colours"),
        ("GET", "/v2/models/absent/ready", "no such model"),
        ("GET", "/v1/models/absent", "no such model"),
        ("GET", "/v1/models/plain/versions/9", "beta of plain"),
        ("POST", "/v1/models/plain/versions/9:predict", "beta of plain"),
        ("POST", "/v1/classify?model=absent", "no such model"),
        ("POST", "/v1/classify?model=plain", "does not declare"),
        ("GET", "/?model=absent", "no such model"),
    ],
)
def test_what_is_not_there_is_a_404_that_says_what_is(client: TestClient, method: str, path: str, says: str) -> None:
    reply = client.request(method, path)
    assert reply.status_code == 404
    assert says in reply.json()["error"]


def test_a_torchserve_client_gets_its_own_404(client: TestClient) -> None:
    reply = client.post("/predictions/colours/11", json=[])
    assert (reply.status_code, reply.json()["type"]) == (404, "ModelNotFoundException")


def test_the_index_lists_all_of_them(client: TestClient) -> None:
    found = client.post("/v2/repository/index").json()
    assert [(one["name"], one["version"], one["state"]) for one in found] == [
        ("colours", "9", "READY"),
        ("colours", "10", "READY"),
        ("plain", "beta", "READY"),
    ]
    assert client.post("/v2/repository/index", json={"ready": True}).json() == found
    assert client.post("/v2/repository/index", content=b"[]").status_code == 400
    assert client.post("/v2/repository/index", content=b"x" * 20_000).status_code == 413
    assert client.get("/v2/models/colours/versions/9").json()["versions"] == ["9", "10"]
    states = client.get("/v1/models/colours").json()["model_version_status"]
    assert [one["version"] for one in states] == ["10", "9"]
    assert len(client.get("/v1/models/colours/versions/9").json()["model_version_status"]) == 1


def test_a_picture_goes_to_the_first_that_knows_pictures_or_to_the_named_one(client: TestClient) -> None:
    red = picture((255, 0, 0), size=(8, 8))
    named = client.post("/v1/classify?model=colours&version=9", content=red).json()
    assert (named["model_version"], named["classes"][0]["name"]) == ("9", "red")
    assert client.post("/v1/classify", content=red).json()["model_name"] == "colours"
    page = client.get("/?model=plain").text
    assert '"models": [["colours", "10"], ["colours", "9"], ["plain", "beta"]]' in page
    assert '"name": "plain"' in page


def test_each_is_counted_by_name_and_version(client: TestClient) -> None:
    def count(code: int, model: str, version: str) -> float:
        wanted = f'mlopt_requests_total{{code="{code}",model="{model}",route="infer",version="{version}"}} '
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.removeprefix(wanted)) for line in lines if line.startswith(wanted))

    before = [count(200, "colours", "9"), count(200, "colours", "10"), count(404, "", "")]
    client.post("/v2/models/colours/versions/9/infer", json=BODY)
    client.post("/v2/models/a-scanner/infer", json=BODY)
    after = [count(200, "colours", "9"), count(200, "colours", "10"), count(404, "", "")]
    assert after == [before[0] + 1, before[1], before[2] + 1]
    text = client.get("/metrics").text
    assert "a-scanner" not in text
    assert 'mlopt_ready{model="plain",version="beta"} 1.0' in text
    assert 'mlopt_model_info{model="colours",version="10"} 1.0' in text


def test_batches_are_each_models_own(models: Path) -> None:
    """Sixteen requests to two models at once, batched: none gets the other's answer."""
    from concurrent.futures import ThreadPoolExecutor

    client = started(models, Limits(batch=8, delay=0.02))
    try:
        with ThreadPoolExecutor(8) as pool:
            paths = [f"/v2/models/colours/versions/{version}/infer" for version in (9, 10)] * 8
            scores = list(pool.map(lambda path: first_score(client.post(path, json=BODY)), paths))
        assert scores == pytest.approx([36, 40] * 8)
        rows = 'mlopt_batch_rows_sum{model="colours",version="9"} 8.0'
        assert rows in client.get("/metrics").text
    finally:
        client.__exit__(None, None, None)


def test_two_of_one_name_and_version_are_refused(model_folder: Path, models: Path, tmp_path: Path) -> None:
    other = copied(model_folder, tmp_path / "other")
    with pytest.raises(NotServable, match="are both colours, version 3"):
        find_models([model_folder, other])
    with pytest.raises(NotServable, match=f"{model_folder} and {model_folder} are both"):
        find_models([model_folder, model_folder])
    assert [serving.version for _, serving in find_models([model_folder, models])] == ["3", "10", "9", "beta"]


def test_a_folder_without_a_model_is_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(NotServable, match=r"holds no serving\.json"):
        find_models([models / "empty"])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "serving.json").write_text("{}")
    with pytest.raises(NotServable, match=r"x/serving\.json cannot be used"):
        find_models([models, tmp_path])


def test_the_process_takes_folders_and_says_which_model_it_cannot_load(
    models: Path, model_folder: Path, broken_folder: Path
) -> None:
    with quiet_server(models, "--model-dir", str(model_folder)) as port:
        import urllib.request

        for path in ("versions/3/ready", "versions/10/ready", "versions/9/ready"):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/colours/{path}", timeout=10).status == 200
    with process(models, port=free_port(), options=("--model-dir", str(broken_folder))) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert f"{broken_folder}/model.onnx cannot be loaded" in json.loads(said.splitlines()[-1])["reason"]


def test_a_model_too_many_for_the_memory_is_refused_by_name(models: Path) -> None:
    with process(models, port=free_port(), options=("--max-memory", "5")) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    reason = json.loads(said.splitlines()[-1])["reason"]
    assert "with colours, version 10, it takes at least" in reason
    assert "--max-memory allows 5 MiB" in reason


def test_a_server_asked_before_all_are_loaded_is_not_ready(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from mlopt.serve.app import make_app
    from mlopt.serve.model import Model

    release, warm_up = threading.Event(), Model.warm_up

    def slow(self: Model) -> None:
        if self.serving.name == "plain":
            release.wait(20)
        warm_up(self)

    monkeypatch.setattr(Model, "warm_up", slow)
    with TestClient(make_app(models, limits=Limits(), failed=pytest.fail)) as client:
        while client.get("/v2/models/colours/versions/9/ready").status_code != 200:
            pass
        assert first_score(client.post("/v2/models/colours/infer", json=BODY)) == pytest.approx(40)
        reply = client.get("/v2/health/ready")
        assert (reply.status_code, "plain" in reply.json()["error"]) == (503, True)
        assert client.get("/ping").status_code == 503
        assert client.post("/v2/models/plain/infer", json=BODY).status_code == 503
        index = client.post("/v2/repository/index", json={"ready": True}).json()
        assert [one["version"] for one in index] == ["9", "10"]
        release.set()


def test_a_server_told_to_stop_loads_no_more(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    from mlopt.serve.app import make_app
    from mlopt.serve.model import Model

    loading, release, loaded, opened = threading.Event(), threading.Event(), [], Model.opened

    def slow(self: Model) -> Any:
        loaded.append(self.serving.version)
        loading.set()
        assert release.wait(20)
        return opened(self)

    monkeypatch.setattr(Model, "opened", slow)
    with TestClient(make_app(models, limits=Limits(), failed=pytest.fail)):
        assert loading.wait(20)
        threading.Timer(0.2, release.set).start()
    assert loaded == ["10"]


def test_the_size_of_a_model_is_that_of_its_files(model_folder: Path) -> None:
    assert size_of(model_folder) == sum((model_folder / name).stat().st_size for name in ("model.onnx", "serving.json"))
