"""`mlopt preflight`: what a person reads, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import nets
import pytest
import walks


@pytest.fixture
def place(tmp_path: Path) -> Path:
    nets.save(nets.conv_net(), tmp_path / "net.onnx")
    nets.save(nets.transformer_net(), tmp_path / "transformer.onnx")
    return tmp_path


def asked(place: Path, *arguments: str) -> tuple[int, str, str]:
    env = {"MLOPT_CACHE_DIR": str(place / "store"), "NO_COLOR": "1"}
    ended = walks.mlopt("preflight", *arguments, cwd=place, env=env)
    return ended.returncode, " ".join(ended.stdout.split()), ended.stderr


def test_nothing_in_the_way_ends_well(place: Path) -> None:
    code, said, _ = asked(place, "net.onnx", "--target", "jetson")
    assert code == 0
    assert "Nothing here refuses it. Only the device has the last word." in said


def test_every_refusal_is_one_error_with_where_and_next(place: Path) -> None:
    code, _, errors = asked(place, "transformer.onnx", "-t", "jetson", "--jetpack", "5.1", "--precision", "fp8")
    assert code == 4
    assert errors.count("error: ") == 2
    assert "error: Compute capability 8.7 of jetson-orin-nano-8gb has no fp8: it came with 8.9" in errors
    assert "where: node norm1 (LayerNormalization) and 1 more" in errors
    assert "Traceback" not in errors


def test_json_holds_the_same(place: Path) -> None:
    code, said, _ = asked(place, "net.onnx", "-t", "h100", "--precision", "fp4", "--json")
    assert code == 4
    (finding,) = json.loads(said)["findings"]
    assert finding["what"] == "Compute capability 9.0 of h100 has no fp4: it came with 10.0"


def test_a_slip_is_told(place: Path) -> None:
    assert asked(place, "net.onnx", "-t", "jetson", "--precision", "fp7")[2].startswith("error: --precision fp7 is not")
    assert asked(place, "net.onnx", "-t", "rpi5")[2].startswith("error: rpi5 has no TensorRT")
