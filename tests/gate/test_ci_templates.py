"""The pieces for CI systems: the shell in them does what they say, with a real mlopt and each exit code."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mlopt.commands.gate import command

ROOT = Path(__file__).resolve().parents[2]
CI = ROOT / "docker" / "ci"


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((CI / name).read_text())
    return found


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program called mlopt that notes its arguments, one a line, and ends as $CODE says."""
    program = tmp_path / "bin" / "mlopt"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTED"\nexit "$CODE"\n')
    program.chmod(0o755)
    return program.parent


def run(script: str, folder: Path, stand_in: Path, **given: str) -> tuple[int, list[str], str]:
    environment = {
        **os.environ,
        "PATH": f"{stand_in}:{os.environ['PATH']}",
        "NOTED": str(folder / "noted"),
        "GITHUB_OUTPUT": str(folder / "output"),
        "CANDIDATE": "out/my model",
        "BASELINE": "base.onnx",
        "PROFILE": "ci-gate",
        "SAMPLES": "",
        "OUT": "gate",
        **given,
    }
    (folder / "output").write_text("")
    ended = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return ended.returncode, (folder / "noted").read_text().splitlines(), (folder / "output").read_text()


@pytest.mark.parametrize(("code", "ends", "verdict"), [(0, 0, "pass"), (1, 1, "fail"), (24, 0, "inconclusive")])
def test_the_action_tells_the_verdict(code: int, ends: int, verdict: str, tmp_path: Path, stand_in: Path) -> None:
    script = read("github-action.yml")["runs"]["steps"][0]["run"]
    ended, arguments, output = run(script, tmp_path, stand_in, CODE=str(code))
    assert (ended, output) == (ends, f"verdict={verdict}\n")
    assert arguments[:2] == ["gate", "out/my model"]
    assert "--samples" not in arguments


def test_the_action_takes_samples_and_runs_nothing_that_is_in_a_name(tmp_path: Path, stand_in: Path) -> None:
    script = read("github-action.yml")["runs"]["steps"][0]["run"]
    nasty = "$(touch hacked) `touch hacked`; touch hacked"
    ended, arguments, _ = run(script, tmp_path, stand_in, CODE="23", SAMPLES=nasty)
    assert ended == 23, "a crash is no verdict, and fails"
    assert arguments[arguments.index("--samples") + 1] == nasty
    assert not (tmp_path / "hacked").exists()
    assert "${{" not in script


def test_gitlab_warns_on_24_alone(tmp_path: Path, stand_in: Path) -> None:
    job = read("gitlab.yml")[".mlopt-gate"]
    assert job["allow_failure"] == {"exit_codes": [24]}
    ended, arguments, _ = run("\n".join(job["script"]), tmp_path, stand_in, CODE="24")
    assert ended == 24
    assert job["artifacts"]["reports"]["junit"] == arguments[arguments.index("--junit") + 1]


def test_jenkins_knows_the_codes(tmp_path: Path, stand_in: Path) -> None:
    text = (CI / "Jenkinsfile").read_text()
    script = text.split("script: '''")[1].split("'''")[0].replace("\\\n", " ")
    ended, arguments, _ = run(script, tmp_path, stand_in, CODE="24")
    assert ended == 24
    assert arguments[0] == "gate"
    assert "code == 24" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("name", ["github-action.yml", "gitlab.yml", "Jenkinsfile"])
def test_every_option_that_they_use_is_there(name: str) -> None:
    helped = CliRunner().invoke(command, ["--help"]).output
    used = {word for word in (CI / name).read_text().split() if word.startswith("--")}
    assert used
    assert all(option in helped for option in (word.strip("\"'") for word in used))
