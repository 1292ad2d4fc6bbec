"""`mlopt gate` as CI calls it: one exit code for each verdict, a table a person reads, JSON a program reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from gate_results import made
from nets import conv_net, save

from mlopt.gate.text import headline, to_terminal

PROFILE = """\
schema = 1
summary = "loose, for tests"
[method]
warm-up = 2
rounds = 4
seconds = "1s"
[gate]
latency-p50 = "60%"
peak-memory = "20%"
file-size = "50%"
seconds = "20s"
"""


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlopt", "gate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "loose.toml").write_text(PROFILE)
    rebuilt = conv_net(width=16)
    rebuilt.doc_string = "built again"
    return {
        "base": save(conv_net(width=16), tmp_path / "base.onnx"),
        "rebuilt": save(rebuilt, tmp_path / "rebuilt.onnx"),
        "wider": save(conv_net(width=64), tmp_path / "wider.onnx"),
        "profile": tmp_path / "loose.toml",
    }


@pytest.mark.slow
def test_the_exit_code_is_the_verdict(models: dict[str, Path]) -> None:
    base, profile = models["base"], models["profile"]
    passed = run(models["rebuilt"], "-b", base, "-p", profile)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert passed.stdout.startswith("PASS: ")
    failed = run(models["wider"], "--baseline", base, "-p", profile, "--json", "--junit", profile.with_name("j.xml"))
    assert "<failure" in profile.with_name("j.xml").read_text()
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["verdict"] == "fail"
    assert "error: The candidate is worse" in failed.stderr
    assert "file-size" in failed.stderr
    open_ = run(models["rebuilt"], "-b", base, "-p", profile, "--seconds", "0.001")
    assert open_.returncode == 24
    assert open_.stdout.startswith("INCONCLUSIVE: ")
    assert "next: " in open_.stdout


def test_an_output_that_cannot_be_written_loses_no_verdict(models: dict[str, Path], tmp_path: Path) -> None:
    base, wider = models["base"], models["wider"]
    models["profile"].write_text('schema = 1\nsummary = "size only"\n[gate]\nfile-size = "50%"\nseconds = "0.001s"\n')
    (tmp_path / "file").write_text("")
    missing = ("--junit", tmp_path / "file" / "junit.xml", "--csv", tmp_path / "gate.csv")
    failed = run(wider, "-b", base, "-p", models["profile"], *missing)
    assert failed.returncode == 1
    assert failed.stdout.startswith("FAIL: ")
    assert failed.stderr.count("error: ") == 2
    assert "cannot be written" in failed.stderr
    assert (tmp_path / "gate.csv").exists()
    passed = run(base, "-b", base, "-p", models["profile"], *missing)
    assert passed.returncode == 21, "what was asked for is not there"
    assert passed.stdout.startswith("PASS: ")


def test_bad_input_is_one_error(models: dict[str, Path], tmp_path: Path) -> None:
    absent = run(models["base"], "-b", tmp_path / "absent.onnx")
    assert absent.returncode == 10
    assert "no baseline" in absent.stderr
    assert run(models["base"]).returncode == 2
    (tmp_path / "older.json").write_text('{"kind": "mlopt-gate", "schema": 7}')
    older = run(models["base"], "-b", tmp_path / "older.json")
    assert older.returncode == 19
    assert "schema 7" in older.stderr
    assert "Traceback" not in absent.stderr + older.stderr


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = to_terminal(made(), width=width, color=False)
    assert max(map(len, shown.splitlines())) <= width
    assert "FAIL" in shown
    assert "latency-p50" in shown


def test_a_name_from_a_file_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in to_terminal(made(name="\x1b[2Jnet"), width=100, color=False)


def test_the_headline_says_what_and_by_how_much() -> None:
    assert headline(made()) == "FAIL: net.onnx against net.onnx: latency-p50 +11.8 %"
    assert headline(made("pass")).startswith("INCONCLUSIVE: ")
