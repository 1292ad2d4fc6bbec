"""A Python besides this one: why it cannot be used is said each time, with what to type; it is asked what it has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import other_pythons
import pytest
from other_pythons import VARIABLE

from mlopt.errors import MissingDependency
from mlopt.interpreter import MODELOPT


def reason(monkeypatch: pytest.MonkeyPatch, value: str | Path | None) -> str:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, str(value))
    said = MODELOPT.why_not()
    assert MODELOPT.versions() == {"nvidia-modelopt": "absent"}
    with pytest.raises(MissingDependency) as raised:
        MODELOPT.find()
    assert str(raised.value.next) in said
    return said


@pytest.mark.parametrize("value", [None, ""])
def test_where_none_is_named_the_way_to_one_is_said_whole(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    assert reason(monkeypatch, value) == (
        "nvidia-modelopt is run by a Python of its own, and none is named: python3 -m venv nvidia-modelopt && "
        "nvidia-modelopt/bin/pip install 'nvidia-modelopt[onnx]' && "
        "export MLOPT_MODELOPT_PYTHON=$PWD/nvidia-modelopt/bin/python"
    )


def test_what_is_no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not to be run")
    for value in (tmp_path, tmp_path / "absent", tmp_path / "text"):
        assert f"{value}, which {VARIABLE} names, is no program" in reason(monkeypatch, value)


@pytest.mark.parametrize("script", ["", "exit 3", "echo nothing", "echo 7", "kill -9 $$"])
def test_what_is_no_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert "does not answer as a Python does" in reason(monkeypatch, program)


def test_one_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr("mlopt.interpreter._SECONDS", 0.2)
    assert "does not answer as a Python does" in reason(monkeypatch, program)


def test_one_without_the_tool_whatever_lies_where_somebody_stands(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare = other_pythons.python(tmp_path / "bare")
    facts = tmp_path / "here" / "nvidia_modelopt.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: nvidia-modelopt\nVersion: 1\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "here"))
    said = reason(monkeypatch, bare)
    assert said == (
        f"{bare}, which {VARIABLE} names, has no nvidia-modelopt: {bare} -m pip install 'nvidia-modelopt[onnx]'"
    )


def test_what_it_has_is_told_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = other_pythons.with_modelopt(tmp_path / "other", version="9.9")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, os.path.relpath(python))
    found = MODELOPT.versions()
    assert MODELOPT.find() == python  # the link in the environment, not the Python that it leads to
    assert python.resolve() == Path(sys.executable).resolve()
    assert found["nvidia-modelopt"] == "9.9"
    assert {"numpy for nvidia-modelopt", "onnx for nvidia-modelopt"} <= set(found)
    assert MODELOPT.why_not() == ""
