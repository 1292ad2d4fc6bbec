"""What an installation can do: told from its own metadata, and from what the machine's tools really answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import other_pythons
import pytest
from other_pythons import VARIABLE

from mlopt.installation import Package, Tool, core, extras, tools


def tools_where(said: Mapping[str, str]) -> dict[str, Tool]:
    """The tools of a machine that has only those programs, by the first words of what is asked of them."""
    found = tools(
        lambda command: said.get(" ".join(command[:2]), ""),
        which=lambda name: f"/usr/bin/{name}" if any(line.split()[0] == name for line in said) else None,
    )
    return {tool.name: tool for tool in found}


@pytest.fixture(autouse=True)
def no_other_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def test_the_core_is_what_the_project_file_says(root: Path) -> None:
    import tomllib

    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert [f"{package.name}{package.wanted}" for package in core()] == sorted(declared["dependencies"])
    assert all(package.fits for package in core())


def test_every_extra_of_the_project_file_says_what_it_gives(root: Path) -> None:
    import tomllib

    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {extra.name: extra for extra in extras()}
    assert set(found) == set(declared)
    for name, extra in found.items():
        assert len(extra.packages) == len(declared[name])
        assert extra.gives != "an extra of this installation"
        assert bool(extra.command) == (extra.possible and not extra.complete)


def test_an_extra_without_a_runner_does_not_promise_one() -> None:
    from mlopt import registry

    for extra in extras():
        if extra.name in ("onnxruntime-cuda", "openvino"):
            promised = "nothing yet" not in extra.gives
            assert promised == (extra.name in registry.names("mlopt.runners"))


@pytest.mark.parametrize(
    ("wanted", "version", "fits"),
    [
        (">=2.9", "2.13.0+cpu", True),
        (">=2.9", "2.8.1", False),
        (">=2.9", "2.9", True),
        (">=2.9", None, False),
        ("", "0.1", True),
        (">=2.9,<3", "2.9.1", True),
    ],
)
def test_an_old_version_is_not_good_enough(wanted: str, version: str | None, fits: bool) -> None:
    assert Package("x", wanted, version).fits is fits


def test_a_machine_without_tools() -> None:
    found = tools_where({})
    assert not any(tool.usable for name, tool in found.items() if name != "pip")
    assert {tool.state for name, tool in found.items() if name != "pip"} == {"not installed"}


def test_an_engine_counts_only_when_it_answers() -> None:
    found = tools_where(
        {"podman --version": "podman version 4.3.1", "podman info": "host: …", "docker --version": "28.2"}
    )
    assert (found["podman"].usable, found["podman"].state) == (True, "4.3.1, answers")
    assert not found["docker"].usable
    assert "docker info" in found["docker"].next


@pytest.mark.parametrize(("version", "usable"), [("7.2.19", False), ("10.0.2", True), ("11.1.3", True)])
def test_an_emulator_that_would_crash_is_not_usable(
    version: str, usable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLOPT_QEMU_AARCH64", raising=False)
    other = "x86_64" if "aarch64" in subprocess.check_output(["uname", "-m"], text=True) else "aarch64"
    program = f"qemu-{other}-static"
    tool = tools_where({f"{program} --version": f"{program} version {version} (Debian 1:{version})"})[f"qemu-{other}"]
    assert tool.usable is usable
    assert version in tool.state
    assert bool(tool.next) is not usable


def test_ssh_is_of_use_with_scp_alone() -> None:
    assert not tools_where({"ssh -V": ""})["ssh"].usable
    assert tools_where({"ssh -V": "", "scp -V": ""})["ssh"].usable


def test_a_driver_that_does_not_answer_is_no_gpu() -> None:
    assert "does not answer" in tools_where({"nvidia-smi -L": "x"})["nvidia-smi"].state
    said = {"nvidia-smi --query-gpu=name,driver_version": "NVIDIA H200, 570.1\n"}
    assert tools_where(said)["nvidia-smi"].state == "NVIDIA H200, 570.1"


def test_a_program_that_fails_or_is_absent_says_nothing() -> None:
    from mlopt.installation import _ask

    assert _ask((sys.executable, "-c", "print('yes')")) == "yes\n"
    assert _ask((sys.executable, "-c", "print('yes'); raise SystemExit(1)")) == ""
    assert _ask(("mlopt-no-such-program",)) == ""


def test_the_python_that_has_nvidias_quantizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = tools_where({})["nvidia-modelopt"]
    assert "export MLOPT_MODELOPT_PYTHON=" in absent.next
    monkeypatch.setenv(VARIABLE, str(other_pythons.python(tmp_path / "bare")))
    bare = tools_where({})["nvidia-modelopt"]
    assert (bare.usable, bare.state) == (False, "not usable")
    assert "has no nvidia-modelopt" in bare.next
    monkeypatch.setenv(VARIABLE, str(other_pythons.with_modelopt(tmp_path / "other", version="9.9")))
    there = tools_where({})["nvidia-modelopt"]
    assert (there.usable, there.state, there.next) == (True, "9.9, where MLOPT_MODELOPT_PYTHON says", "")
