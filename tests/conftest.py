"""What every test can ask for. Tests that need something this machine lacks are skipped, with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from registries import Registry

    from mlopt.image.fetch import Inputs

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
EXTRAS = {name: name for name in ("torch", "tensorflow", "openvino")} | {"litert": "ai-edge-litert"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from mlopt.step import installed

    for item in items:
        if item.get_closest_marker("real") and not DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason="the real models and images are not beside the checkout"))
        for extra, package in EXTRAS.items():
            if item.get_closest_marker(extra) and not installed(package):
                item.add_marker(pytest.mark.skip(reason=f"{extra} is not installed: pip install mlopt[{extra}]"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """Real models and images; a test that asks for it is marked `real`."""
    return DATA


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the store of the person who runs it, or their history."""
    monkeypatch.setenv("MLOPT_CACHE_DIR", str(tmp_path / "store"))
    monkeypatch.delenv("MLOPT_HISTORY", raising=False)
    monkeypatch.setenv("COLUMNS", "100")  # else what a person reads is as wide as the terminal of who runs the tests


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A real registry on 127.0.0.1, in which nobody is logged in; a test that asks for it is marked `registry`."""
    from registries import running

    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker"))
    with running(tmp_path / "registry") as started:
        yield started


@pytest.fixture(scope="session")
def image_inputs() -> Inputs:
    """The user's own cache with every locked input of images in it, fetched once through this machine's own apt and
    pip; a test that asks for it is skipped, with the reason, where they cannot be had."""
    from mlopt.errors import ImageFailed
    from mlopt.image.fetch import inputs_from_environment
    from mlopt.image.inputs import docker_folder, host_platform, read_lock
    from mlopt.store import default_root

    found = inputs_from_environment(root=default_root())
    folder = docker_folder()
    base, runtime, native = (read_lock(folder / f"{name}.lock.json") for name in ("base", "runtime", "native"))
    try:
        for platform in base.packages:
            found.debs(base.of(platform))
            found.wheels(runtime.of(platform), python="3.11")
        found.wheels(native.of(host_platform()), python="3.11")
    except ImageFailed as error:
        pytest.skip(f"the image's inputs cannot be fetched here: {error}")
    return found
