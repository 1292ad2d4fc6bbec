"""What a model says to its server: below options and environment, each its own, and agreed where there is one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, quiet_server, status
from test_serve_app import INFER, tensor
from test_several_models import copied

from mlopt.errors import ConfigInvalid
from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving
from mlopt.project import read_project
from mlopt.serve.model import NotServable, Serving, read_serving
from mlopt.serve.settings import Settings, read_settings
from mlopt.serve.told import limits_of, settled

TABLE = """
[serve]
max-batch = 8
batch-delay = "2ms"
cache = "1MB"
concurrency = 1
max-waiting = 0
max-wait = "1.5s"
max-body = "2MiB"
max-held = "4MiB"
max-arrival = "3s"
max-connections = 7
api-keys-file = "/run/secrets/keys"
"""


def told(tmp_path: Path, table: str) -> dict[str, Any]:
    (tmp_path / "mlopt.toml").write_text(table)
    return read_project(tmp_path / "mlopt.toml").serve.as_json()


def served(model_folder: Path, tmp_path: Path, table: str, *, name: str = "colours") -> Serving:
    """Through the file: what the table says, as the server reads it."""
    (tmp_path / name).mkdir()
    spec = describe_serving(model_folder / "model.onnx", name=name, told=told(tmp_path, table))
    (tmp_path / name / "serving.json").write_bytes(encode_serving(spec))
    return read_serving(tmp_path / name)


def settle(arguments: list[str], servings: list[Serving]) -> Settings:
    return settled(arguments, read_settings(arguments), servings)


def test_what_the_table_says_reaches_the_server(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = served(model_folder, tmp_path, TABLE)
    assert serving.batching is not None
    assert (serving.batching.largest, serving.batching.delay) == (8, 0.002)
    settings = settle(["--model-dir", "x"], [serving])
    limits = limits_of(["--model-dir", "x"], settings)(serving)
    assert (limits.cache, limits.concurrency, limits.waiting, limits.patience) == (1_000_000, 1, 0, 1.5)
    assert limits.body == 2 << 20
    assert (settings.limits.held, settings.limits.arrival, settings.connections) == (4 << 20, 3.0, 7)
    assert settings.api_keys_file == Path("/run/secrets/keys")
    # Who starts the server wins: by an option, and by the environment.
    monkeypatch.setenv("MLOPT_SERVE_CACHE", "3")
    monkeypatch.setenv("MLOPT_SERVE_MAX_HELD", "100")
    arguments = ["--model-dir", "x", "--max-body=5", "--max-connections", "9"]
    limits = limits_of(arguments, settle(arguments, [serving]))(serving)
    assert (limits.cache, limits.body, limits.held) == (3 << 20, 5 << 20, 100 << 20)
    assert settle(arguments, [serving]).connections == 9


def test_without_the_table_nothing_is_said(model_folder: Path, tmp_path: Path) -> None:
    assert told(tmp_path, "") == {}
    serving = served(model_folder, tmp_path, "[serve]\nmax-batch = 4\n", name="half")
    assert serving.told == {}
    assert serving.batching is not None
    assert serving.batching.delay == 0


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("max-batch = 0", "above 0"),
        ("max-batch = 2.5", "max-batch"),
        ('cache = "64"', "64MiB|512MiB"),
        ("cache = 64", "unit"),
        ('batch-delay = "2ms"', "without max-batch"),
        ('max-body = "300MiB"', "max-held"),
        ('max-wait = "0s"', "above 0"),
        ("max-waiting = -1", "below 0"),
        ('api-keys-file = "keys"', "absolute"),
        ('api-keys = ["a"]', "api-keys-file"),
        ("max-bach = 4", "max-batch"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, table: str, says: str) -> None:
    with pytest.raises(ConfigInvalid) as refused:
        told(tmp_path, f"[serve]\n{table}\n")
    import re

    assert re.search(says, str(refused.value)), refused.value


def test_models_that_disagree_on_the_process_end_the_start(model_folder: Path, tmp_path: Path) -> None:
    one = served(model_folder, tmp_path, "[serve]\nmax-connections = 5\ncache = '1MB'", name="one")
    other = served(model_folder, tmp_path, "[serve]\nmax-connections = 6\ncache = '2MB'", name="other")
    silent = served(model_folder, tmp_path, "", name="silent")
    with pytest.raises(NotServable, match=r"one says max-connections 5, other says 6.*--max-connections"):
        settle(["--model-dir", "x"], [one, silent, other])
    assert settle(["--model-dir", "x", "--max-connections", "9"], [one, other]).connections == 9
    assert settle(["--model-dir", "x"], [silent, one]).connections == 5
    own = limits_of(["--model-dir", "x"], settle(["--model-dir", "x"], [one]))
    assert [own(serving).cache for serving in (one, other, silent)] == [1_000_000, 2_000_000, 0]


def test_a_serving_json_that_says_what_is_not_known_is_refused(model_folder: Path, tmp_path: Path) -> None:
    folder = copied(model_folder, tmp_path / "x", server={"max-memory": "5"})
    with pytest.raises(NotServable, match="max-memory"):
        read_serving(folder)


def test_a_process_does_what_its_model_says(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a-key-of-16-chars\n")
    keyed = copied(model_folder, tmp_path / "keyed", server={"api-keys-file": str(tmp_path / "keys")})
    small = copied(model_folder, tmp_path / "small", server={"max-body": "1100B"})
    body = json.dumps({"inputs": [tensor()]})
    assert len(body) < 1100
    with quiet_server(keyed) as port:
        assert status(port, INFER, body) == 401
    with quiet_server(small) as port:
        assert status(port, INFER, body) == 200
        assert status(port, INFER, body + " " * 1000) == 413
    (tmp_path / "other").write_text("another-key-of-20-ch\n")
    named = {"name": "other", "server": {"api-keys-file": str(tmp_path / "other")}}
    other = copied(model_folder, tmp_path / "two", **named)
    with process(keyed, port=free_port(), options=("--model-dir", str(other))) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "say it with --api-keys-file" in json.loads(said.splitlines()[-1])["reason"]
