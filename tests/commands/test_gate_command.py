"""`mlopt gate` as CI calls it: one exit code for each verdict, a table a person reads, JSON a program reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nets import conv_net, save

from mlopt.gate.result import Check, GateResult, Side, Timing, Verdict, verdict_of
from mlopt.gate.text import headline, to_terminal
from mlopt.measurement import Interval

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
    failed = run(models["wider"], "--baseline", base, "-p", profile, "--json")
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["verdict"] == "fail"
    assert "error: The candidate is worse" in failed.stderr
    assert "file-size" in failed.stderr
    open_ = run(models["rebuilt"], "-b", base, "-p", profile, "--seconds", "0.001")
    assert open_.returncode == 24
    assert open_.stdout.startswith("INCONCLUSIVE: ")
    assert "next: " in open_.stdout


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


def made(verdict: Verdict = "fail") -> GateResult:
    change = Interval(0.118, 0.09, 0.13, "m")
    checks = (
        Check("file-size", "regression", "pass", "bytes", 4000.0, 4000.0, None, 0.01, "counted"),
        Check("latency-p50", "regression", verdict, "seconds", 0.001, 0.00112, change, 0.025, "m"),
    )
    side = Side("net.onnx", "d", "onnxruntime", 4000, {"Conv": 2})
    timing = Timing("A CPU, 2 cores", "single-stream", 1, 1, 40, 2, 12.5, Interval(0.001, -0.01, 0.012, "m"), 0.012)
    return GateResult(
        1, "mlopt-gate", "0", verdict_of(checks), side, side, "ci-gate", {}, checks, {}, timing, (), None, 14.0
    )


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = to_terminal(made(), width=width, color=False)
    assert max(map(len, shown.splitlines())) <= width
    assert "FAIL" in shown
    assert "latency-p50" in shown


def test_a_name_from_a_file_cannot_drive_the_terminal() -> None:
    import dataclasses

    result = made()
    nasty = dataclasses.replace(result.candidate, name="\x1b[2Jnet")
    assert "\x1b" not in to_terminal(dataclasses.replace(result, candidate=nasty), width=100, color=False)


def test_the_headline_says_what_and_by_how_much() -> None:
    assert headline(made()) == "FAIL: net.onnx against net.onnx: latency-p50 +11.8 %"
    assert headline(made("inconclusive")).startswith("INCONCLUSIVE: ")
