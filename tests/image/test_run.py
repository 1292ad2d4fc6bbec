"""The image's own files, started without any engine, answer as a server must."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlopt.errors import ImageFailed, MissingDependency
from mlopt.image.assemble import Image, ImageSpec, assemble
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, host_platform
from mlopt.image.load import load_image, local_reference
from mlopt.image.run import engine_runs, serve_image

pytestmark = pytest.mark.skipif(
    host_platform() not in PLATFORMS, reason=f"images are not made for this machine ({host_platform()})"
)


def post(url: str, body: bytes) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as reply:
        return json.load(reply)


@pytest.mark.parametrize("made", ["image", "openvino_image", pytest.param("litert_image", marks=pytest.mark.litert)])
def test_it_runs_the_images_own_files_and_stops(made: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    image: Image = request.getfixturevalue(made)
    with serve_image(image.path, engine="none", root=tmp_path / "cache") as served:
        assert served.engine == "none"
        assert served.url.startswith("http://127.0.0.1:")
        tensor = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.0] * 192}
        answer = post(f"{served.url}/v2/models/colours/infer", json.dumps({"inputs": [tensor]}).encode())
        assert answer["outputs"][0]["data"] == [0.0, 0.0, 0.0]
        loaded = Path(f"/proc/{served.pid}/maps").read_text()
        libraries = {line.split()[-1] for line in loaded.splitlines() if ".so" in line}
        strangers = {path for path in libraries if not path.startswith(str(tmp_path))}
        assert strangers == set(), "the server took files of the host"
        assert any("libopenvino_intel_cpu" in path for path in libraries) == (made == "openvino_image")
        assert any("libpywrap_litert_common" in path for path in libraries) == (made == "litert_image")
        assert any("onnxruntime" in path for path in libraries) == (made == "image")
    assert not Path(f"/proc/{served.pid}").exists()
    with pytest.raises(OSError, match=r"."):
        urllib.request.urlopen(served.url, timeout=2)


def test_the_environment_sets_the_server_up(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPT_SERVE_API_KEYS", "a-key-of-16-chars")
    monkeypatch.setenv("MLOPT_SERVE_MAX_BATCH", "4")
    with serve_image(image.path, engine="none", root=tmp_path / "cache") as served:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{served.url}/v2", timeout=30)
        keyed = urllib.request.Request(f"{served.url}/v2", headers={"X-Api-Key": "a-key-of-16-chars"})
        with urllib.request.urlopen(keyed, timeout=30) as reply:
            assert reply.status == 200


def test_a_server_that_cannot_start_says_why(
    inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path
) -> None:
    spec = make_spec()
    spec.model.write_bytes(spec.model.read_bytes()[:100])
    image = assemble(spec, tmp_path / "image", inputs=inputs)
    with pytest.raises(ImageFailed, match="cannot be loaded"), serve_image(image.path, engine="none", root=tmp_path):
        pytest.fail("it served a damaged model")


def test_a_layout_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="not an OCI layout"), serve_image(tmp_path, engine="none", root=tmp_path):
        pytest.fail("it served nothing")


def test_an_engine_that_is_not_there(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert not engine_runs("podman")
    with pytest.raises(MissingDependency, match="podman"):
        load_image(image.path, engine="podman", platform="linux/amd64")


def test_a_name_that_no_reference_can_hold_is_changed(
    inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path
) -> None:
    image = assemble(make_spec(name="My Model (v2)!"), tmp_path / "image", inputs=inputs)
    assert local_reference(image.path) == "localhost/mlopt/my-model-v2:1"
