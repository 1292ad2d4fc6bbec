"""docs/writing-a-step.md, done: its package installed, its files used, what its step writes looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

FILES = {"zero_weights.py", "reference_runner.py", "pyproject.toml", "zeros.toml", "witness.toml"}
SAVED = re.compile(r"this as `([\w.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "writing-a-step.md").read_text()


@pytest.fixture(scope="module")
def workshop(page: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the page, its package installed beside it, and a model."""
    folder = tmp_path_factory.mktemp("workshop")
    for name, text in SAVED.findall(page):
        (folder / name).write_text(text)
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        "installed",
        ".",
    ]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    nets.save(nets.conv_net(), folder / "model.onnx")
    return folder


def run(command: str, folder: Path, store: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder / "installed"), "MLOPT_CACHE_DIR": str(store)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_page_shows_one_file_of_each_kind(page: str) -> None:
    assert {name for name, _ in SAVED.findall(page)} == FILES | {"board.toml", "gateway.toml"}


@pytest.mark.slow
def test_the_page_works(page: str, workshop: Path, tmp_path: Path) -> None:
    (commands,) = COMMANDS.findall(page)
    said = [run(command, workshop, tmp_path / "store") for command in commands.strip().splitlines()]
    assert "zero-weights" in said[0]
    assert "Cortex-A72" in said[1]
    assert "zero-weights(share=0.33) → optimize-graph" in " ".join(said[2].split())
    assert "onnx-reference" in said[2]
    bundle = workshop / "out" / "model" / "host"
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert [link["step"] for link in manifest["lineage"]][-2:] == ["zero-weights", "optimize-graph"]
    report = json.loads((bundle / "report.json").read_text())
    witness = next(candidate for candidate in report["candidates"] if candidate["name"] == "witness")
    assert witness["runtime"] == "onnx-reference"
    assert witness["measurement"]["runtime"] == "onnx-reference"
    assert witness["accuracy"]["cosine"] == pytest.approx(1, abs=1e-5)  # an independent witness agrees
    assert shares(bundle / "model" / "model.onnx") == [pytest.approx(0.33, abs=0.02)] * 3


def shares(model: Path) -> list[float]:
    """The share of zeros in every weight tensor of two dimensions and more."""
    arrays = [numpy_helper.to_array(tensor) for tensor in onnx.load(str(model)).graph.initializer]
    return [float(np.mean(array == 0)) for array in arrays if array.ndim >= 2]
