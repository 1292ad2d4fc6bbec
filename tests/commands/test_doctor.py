"""`mlopt doctor` as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlopt import installation
from mlopt.commands.doctor import command
from mlopt.errors import MissingDependency
from mlopt.installation import Extra, Package


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_it_names_every_part(tmp_path: Path) -> None:
    shown = run("--cache-dir", str(tmp_path / "none")).output
    for word in ("this machine", "core", "onnxruntime", "extras", "podman", "store", str(tmp_path), "telemetry"):
        assert word in shown
    assert not (tmp_path / "none").exists()


def test_it_fits_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    long = [line for line in run().output.splitlines() if len(line) > 80 and " " in line.strip()[:-1]]
    assert all("/" in line for line in long)  # only a path may be longer than the terminal


def test_json_says_the_same(tmp_path: Path) -> None:
    facts = json.loads(run("--json", "--cache-dir", str(tmp_path)).output)
    assert facts["store"]["writable"] is True
    assert facts["store"]["free"] > 0
    assert {package["name"] for package in facts["core"]} >= {"onnx", "onnxruntime", "numpy"}
    assert facts["machine"]["platform"].startswith("linux/")
    assert facts["python"]["executable"]


def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = Extra("torch", "reads .pt2", (Package("torch", ">=2.9", None),), True)
    monkeypatch.setattr(installation, "extras", lambda: (extra,))
    result = run()
    assert result.exit_code == 0
    assert "not installed; reads .pt2" in result.output
    assert "-m pip install 'mlopt[torch]'" in result.output


def test_an_extra_that_this_machine_cannot_have_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = Extra("tensorrt", "engines", (Package("tensorrt-rtx", ">=1.7", None),), False)
    monkeypatch.setattr(installation, "extras", lambda: (extra,))
    shown = run().output
    assert "not for this machine" in shown
    assert "pip install 'mlopt" not in shown


def test_a_broken_core_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "core", lambda: (Package("onnx", ">=1.18", "1.2"), Package("numpy", "", None)))
    with pytest.raises(MissingDependency) as caught:
        run()
    assert "onnx and numpy" in caught.value.what
    assert "pip install 'onnx>=1.18' 'numpy'" in caught.value.next


def test_a_store_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run("--cache-dir", str(tmp_path / "file" / "store")).output


def test_telemetry_that_somebody_switched_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert "set it to 1" in run().output
