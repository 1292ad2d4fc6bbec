"""A gate of two models on a GPU: real rounds and processes, on a driver that stands in for NVIDIA's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nets import conv_net, save
from stand_in_gpu import StandIn, mlopt, stand_in_gpu

pytestmark = pytest.mark.slow


@pytest.fixture
def gpu(tmp_path: Path) -> StandIn:
    return stand_in_gpu(tmp_path / "gpu")


def gated(gpu: StandIn, folder: Path, runtime: str = "stand-in-gpu") -> dict[str, Any]:
    candidate, baseline = (save(conv_net(width=width), folder / f"{width}.onnx") for width in (8, 16))
    ran = mlopt(
        gpu, "gate", str(candidate), "--baseline", str(baseline), "--runtime", runtime, "--seconds", "1", "--json"
    )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def clock(found: dict[str, Any]) -> str:
    return next(str(check["note"]) for check in found["checks"] if check["metric"] == "latency-p50")


def left(found: dict[str, Any]) -> list[str]:
    return [one["metric"] for one in found["not_compared"]]


def test_a_card_that_was_held_back_is_told_beside_the_clock(gpu: StandIn, tmp_path: Path) -> None:
    gpu.answers(reasons="0x4")
    found = gated(gpu, tmp_path)
    pairs = found["timing"]["pairs"]
    assert f"the GPU's clocks were held back (power cap in {pairs} of {pairs} pairs of rounds)" in clock(found)


def test_of_a_card_that_nothing_holds_back_only_the_memory_of_both_is_told(gpu: StandIn, tmp_path: Path) -> None:
    found = gated(gpu, tmp_path)
    assert "held back" not in clock(found)
    memory = next(check for check in found["checks"] if check["metric"] == "gpu-memory")
    assert (memory["baseline"], memory["candidate"], memory["verdict"]) == (612_000_000, 612_000_000, "pass")
    assert found["measured"]["gpu-memory"] == 612_000_000
    assert found["machine"]["gpu"] == "NVIDIA H200, driver 580.159.04"


def test_memory_that_nobody_tells_apart_from_a_strangers_is_not_judged(gpu: StandIn, tmp_path: Path) -> None:
    gpu.answers(hides_processes="1")
    found = gated(gpu, tmp_path)
    assert "gpu-memory" in left(found)
    assert "gpu-memory" not in found["measured"]


def test_a_card_that_does_not_tell_is_no_card_that_nothing_holds_back(gpu: StandIn, tmp_path: Path) -> None:
    gpu.answers(reasons=None)
    assert "what holds the GPU's clocks back is not known: " in clock(gated(gpu, tmp_path))


def test_a_model_on_the_cpu_has_nothing_of_a_card(gpu: StandIn, tmp_path: Path) -> None:
    gpu.answers(reasons="0x4")
    found = gated(gpu, tmp_path, "onnxruntime")
    assert "held back" not in clock(found)
    assert "gpu-memory" not in left(found)
