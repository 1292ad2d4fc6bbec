"""mlopt from Python: one call, a bundle back, errors as exceptions."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nets
import pytest
import walks

import mlopt
from mlopt.errors import ModelNotFound


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api")
    model = nets.save(nets.conv_net(), folder / "net.onnx")
    walks.labelled(folder / "samples.npz", model)
    walks.profile(folder)
    return folder


def test_compile_gives_the_bundle_that_was_written(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = mlopt.compile(
        place / "net.onnx",
        samples=place / "samples.npz",
        profile=str(place / "fast.toml"),
        recipes=("int8-static",),
        ship="int8-static",
        out=str(place / "out"),
        store=str(place / "store"),
        image=False,
    )
    assert bundle.path == place / "out" / "net" / "host"
    assert bundle.manifest["winner"]["recipe"] == "int8-static"
    assert bundle.model.is_file()
    assert bundle.image is None
    assert bundle.report["winner"] == "int8-static"
    assert bundle.findings is not None
    assert bundle.findings.winner == "int8-static"
    loaded = type(bundle).load(bundle.path)
    assert loaded.manifest == bundle.manifest
    said = capfd.readouterr()
    assert said.out + said.err == "", "a library is silent"


def test_errors_are_exceptions_with_what_where_and_next(place: Path) -> None:
    with pytest.raises(ModelNotFound) as caught:
        mlopt.compile(place / "gone.onnx")
    assert caught.value.next
    assert "gone.onnx" in caught.value.where


def test_a_wrong_option_is_a_type_error(place: Path) -> None:
    with pytest.raises(TypeError, match="sample"):
        mlopt.compile(place / "net.onnx", sample="x")


def test_importing_mlopt_imports_nothing_heavy() -> None:
    code = "import sys, mlopt; print(sorted({'numpy', 'onnx', 'onnxruntime', 'click', 'torch'} & sys.modules.keys()))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"
