"""`mlopt targets`: what a person reads of a machine, and what a program does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlopt.commands.targets import command
from mlopt.errors import ConfigInvalid, UnknownName


def run(*arguments: str, columns: int = 80) -> Result:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("arguments", [("list",), ("show", "jetson"), ("show", "host"), ("show", "rtx5090")])
def test_it_fits_the_terminal(arguments: tuple[str, ...], columns: int) -> None:
    lines = run(*arguments, columns=columns).output.splitlines()
    assert max(len(line) for line in lines if not line.startswith("  file ")) <= columns


def test_list_shows_every_target_and_alias() -> None:
    output = run("list", columns=120).output
    lines = output.splitlines()
    assert lines[1].startswith("host ")
    assert any(line.startswith("jetson-orin-nano-8gb ") and "8 GiB" in line and "8.7" in line for line in lines)
    assert "jetson," in output
    assert run(columns=120).output == output, "without a verb: list"


def test_show_explains_what_can_be_built_where() -> None:
    output = " ".join(run("show", "jetson", columns=120).output.split())
    assert output.startswith("jetson-orin-nano-8gb: NVIDIA Jetson Orin Nano 8 GB")
    assert "jetson alone means this one. Others: jetson-agx-orin-32gb," in output
    assert "JetPack 6.2 (L4T 36.4.3), 6.2.1 (L4T 36.4.4)" in output
    assert "TensorRT for RTX no engine: TensorRT for RTX does not compile for compute capability 8.7" in output
    assert "built on such a machine alone" in output
    assert "--device USER@HOST" in output
    assert "tensorrt-fp16 yes, given the device to build it on" in output
    assert "10.3.0 of JetPack 6.2, 6.2.1, 6.2.2, 6.1: fp32 tf32 fp16 bf16 int8 int4, opset 20, typed by" in output
    assert "8.5.2 of JetPack 5.1: fp32 tf32 fp16 int8 (no bf16, int4 in this version), opset 17, typed by" in output
    assert "DLA none on this board" in output
    assert "mlopt has seen none run" in output
    assert "20 at most: what TensorRT 10.3.0" in output
    assert "dotprod multiplies int8 directly" in output
    assert "unmeasured" in output


def test_show_says_which_jetpack_builds_for_a_dla() -> None:
    output = " ".join(run("show", "jetson-orin-nx-16gb", columns=120).output.split())
    assert "DLA 2 of them, with the TensorRT of JetPack 6.2, 6.2.1, 6.2.2, 6.1, 6.0, 5.1; that of JetPack 7.2" in output
    assert "tensorrt not certain" in output


def test_show_of_a_card_names_both_compilers() -> None:
    output = " ".join(run("show", "t4", columns=120).output.split())
    assert "an engine for compute capability 7.5, on any x86-64 machine" in output
    assert "experimental" in output
    assert "11.4.0: fp32 fp16 int8, opset 25, typed by the model" in output
    assert "its tensor cores have it" not in output
    assert "TensorRT" not in run("show", "rpi5").output.replace("TensorRT for RTX does not", "")


def test_show_marks_what_nobody_checked() -> None:
    output = run("show", "jetson").output
    assert "\n  gpu* " in output
    assert "\n  cpu* " in output
    assert "* unverified" in output
    defined = run("show", "x86-64-avx2").output
    assert "*" not in defined
    assert "neighbouring weights small enough" in defined


def test_a_recipe_that_the_cpu_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "mlopt" / "optimize"
    own.mkdir(parents=True)
    (own / "i8mm-only.toml").write_text(
        'summary = "s"\nprecision = "int8"\nneeds-isa = ["i8mm"]\n[[step]]\nname = "optimize-graph"\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert "no: its CPU has none of i8mm" in run("show", "rpi4").output
    assert "no: its CPU has none of i8mm" not in run("show", "graviton3").output


def test_json_has_every_fact_in_base_units() -> None:
    facts = json.loads(run("show", "jetson", "--json").output)
    assert facts["memory"] == 8 * 2**30
    assert facts["gpu"]["compute_capability"] == "8.7"
    assert facts["gpu"]["bandwidth"] == 68e9
    assert (facts["opset"], facts["int8_scheme"], facts["this_machine"]) == (20, "s8s8", False)
    assert Path(facts["file"]).is_file()
    listed = json.loads(run("list", "--json").output)
    assert len(listed) >= 25
    assert listed[0]["this_machine"] is True


def test_show_takes_a_file(tmp_path: Path) -> None:
    board = tmp_path / "board.toml"
    board.write_text('summary = "mine"\nplatform = "linux/arm64"\n[cpu]\nmodel = "c"\nisa = ["neon"]\n')
    assert "board: mine" in run("show", str(board)).output
    board.write_text('sumary = "mine"\n')
    with pytest.raises(ConfigInvalid, match="Did you mean 'summary'"):
        run("show", str(board))


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownName, match="Did you mean jetson"):
        run("show", "jetsn")


def test_show_says_what_becomes_of_sparse_weights() -> None:
    names = ("jetson", "jetson-agx-xavier", "rtx4090")
    orin, xavier, ada = (" ".join(run("show", name).output.split()) for name in names)
    assert "recipes tensorrt-sparse-fp16 and tensorrt-sparse-int8, asked for by name" in orin
    assert "tensorrt-sparse-int8 no: compute capability 7.2 has no 2:4 sparsity" in xavier
    assert "TensorRT for RTX made the same bytes" in ada
