"""Limits follow what was measured, and say so; without a measurement they say that they are a default."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlopt.deploy.resources import MIB, cpu_of, memory_of
from mlopt.measure.alone import Fresh
from mlopt.measurement import Interval, Latency, Measurement
from mlopt.target import Cpu, Target
from mlopt.units import Bytes

BOARD = Target("board", "a board", "linux/arm64", Cpu("Cortex-A72", ("neon",), cores=4), memory=Bytes(4 << 30))
TAKEN = Measurement(
    device="board, 4 cores",
    grade="measured",
    runtime="onnxruntime",
    scenario="single-stream",
    threads=1,
    batch=1,
    latency=Latency(0.01, 0.01, 0.01, 0.01, 0.01, 5, (0.01,) * 5, 0.01, 0.01, 0.01),
    speedup=Interval(1, 1, 1, "none"),
    rounds=1,
    throughput=100,
    offline_batch=8,
    load_time=0.1,
    first_inference=0.1,
    peak_memory=200 * MIB - 4096,
    memory_after_import=50 * MIB,
    memory_after_load=80 * MIB,
    major_faults=0,
    starts=Fresh([0.1], [200 * MIB - 4096]).starts,
    gpu=None,
)


def test_memory_is_the_measured_peak_with_its_margin() -> None:
    found = memory_of(TAKEN, file_size=5_000_000, target=BOARD)
    assert (found.request, found.limit) == (272 * MIB, 544 * MIB)  # 200 + 64, to the next 16
    assert found.grade == "measured"
    assert "measured on board, 4 cores" in found.why
    assert "DEFAULT" not in found.why


def test_a_few_pages_more_change_nothing() -> None:
    other = replace(TAKEN, peak_memory=TAKEN.peak_memory - 100_000)
    assert memory_of(other, file_size=1, target=BOARD).limit == memory_of(TAKEN, file_size=1, target=BOARD).limit


def test_an_emulated_number_is_not_called_measured() -> None:
    found = memory_of(replace(TAKEN, grade="emulated"), file_size=1, target=BOARD)
    assert found.grade == "emulated"
    assert "measured on" not in found.why


def test_without_a_measurement_it_is_a_default_that_grows_with_the_model() -> None:
    small, large = (memory_of(None, file_size=size * MIB, target=BOARD) for size in (1, 200))
    assert (small.grade, large.grade) == ("unmeasured", "unmeasured")
    assert small.why.startswith("DEFAULT, nothing was measured on board")
    assert (small.request, small.limit) == (272 * MIB, 544 * MIB)
    assert large.request == 864 * MIB


@pytest.mark.parametrize("memory", [1 << 30, 600 * MIB, 200 * MIB, 8 * MIB])
def test_never_more_than_the_target_has(memory: int) -> None:
    tight = replace(BOARD, memory=Bytes(memory), unverified=("memory",))
    found = memory_of(None, file_size=200 * MIB, target=tight)
    assert found.limit <= max(memory, 16 * MIB)
    assert found.request <= max(memory * 3 // 4, 16 * MIB)
    assert "not more than the target has" in found.why
    assert "unverified" in found.why


def test_processors_are_the_threads_of_two_inferences() -> None:
    found = cpu_of(1, target=BOARD)
    assert (found.request, found.limit) == (1000, 2000)
    assert "board has 4 cores" in found.why
    assert "unverified" not in found.why
    assert "unverified" in cpu_of(1, target=replace(BOARD, unverified=("cpu",))).why


def test_processors_are_never_more_than_the_target_has() -> None:
    found = cpu_of(8, target=BOARD)
    assert (found.request, found.limit) == (3000, 4000)  # a node keeps a quarter to itself
    single = cpu_of(1, target=replace(BOARD, cpu=Cpu("old", (), cores=1)))
    assert (single.request, single.limit) == (750, 1000)


def test_a_target_of_unknown_cores_says_so() -> None:
    unknown = replace(BOARD, cpu=Cpu("any", ()))
    found = cpu_of(2, target=unknown)
    assert (found.request, found.limit) == (2000, 4000)
    assert "not known" in found.why
