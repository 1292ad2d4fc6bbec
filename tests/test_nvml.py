"""NVML by its C interface, against a library that refuses what the documented one refuses; and the real one, if any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stand_in_gpu import IDENTITY, StandIn, stand_in_gpu

from mlopt.nvml import Card, NvmlError, card_of, cuda_identity


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = stand_in_gpu(tmp_path / "gpu")
    monkeypatch.setenv("STAND_IN_NVML", str(made.folder))
    return made


def card(gpu: StandIn) -> Card:
    return card_of(IDENTITY, library=gpu.nvml)


def test_everything_that_is_read_of_a_card(gpu: StandIn) -> None:
    found = card(gpu)
    assert (found.name, found.driver) == ("NVIDIA H200", "580.159.04")
    assert (found.clocks(), found.highest_clocks()) == ((1980, 3201), (1980, 3201))
    assert (found.power(), found.power_limit(), found.temperature()) == (391.657, 700.0, 61)
    assert (found.used(), found.joules()) == (1_000_000, 5.0)
    assert found.processes() == {}


def test_the_card_is_the_one_that_cuda_computes_on(gpu: StandIn) -> None:
    assert cuda_identity(library=gpu.cuda) == IDENTITY
    gpu.answers(uuid="GPU-ffffffff-0405-0607-0809-0a0b0c0d0e0f")
    with pytest.raises(NvmlError, match="nvmlDeviceGetHandleByUUID: Not Found"):
        card(gpu)


def test_part_of_a_card_has_memory_of_its_own_and_the_clocks_of_the_whole(gpu: StandIn) -> None:
    gpu.answers(uuid=f"MIG-{IDENTITY}")
    found = card(gpu)
    assert found.handle.value != found.chip.value
    assert found.used() == 1_000_000
    assert found.clocks() == (1980, 3201)
    assert found.name == "NVIDIA H200"


def test_memory_of_processes_however_many_there_are(gpu: StandIn) -> None:
    others = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(9)]
    try:
        for number, one in enumerate(others):
            (gpu.folder / f"pid.{one.pid}").write_text(str(1000 + number))
        (gpu.folder / f"pid.{os.getpid()}").write_text("")  # NVML_VALUE_NOT_AVAILABLE
        found = card(gpu).processes()
    finally:
        for one in others:
            one.kill()
            one.wait()
    assert found == {os.getpid(): None, **{one.pid: 1000 + number for number, one in enumerate(others)}}


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        ("0x0", set()),
        ("0x1", set()),  # it idles
        ("0x5", {"power cap"}),
        ("0x68", {"slowed by the hardware", "heat, by the driver", "heat, by the hardware"}),
        ("0x800000000000", set()),  # one that nobody knows yet
    ],
)
def test_what_keeps_clocks_down_by_the_name_that_old_drivers_have_and_new_ones_still(
    gpu: StandIn, bits: str, reasons: set[str]
) -> None:
    gpu.answers(reasons=bits)
    assert card(gpu).reasons() == reasons


def test_functions_that_newer_and_older_drivers_name_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = stand_in_gpu(
        tmp_path / "gpu",
        nvmlDeviceGetCurrentClocksThrottleReasons="nvmlDeviceGetCurrentClocksEventReasons",
        nvmlDeviceGetComputeRunningProcesses_v3="nvmlDeviceGetComputeRunningProcesses_v2",
    )
    monkeypatch.setenv("STAND_IN_NVML", str(gpu.folder))
    gpu.answers(reasons="0x80")
    (gpu.folder / f"pid.{os.getpid()}").write_text("700")
    assert card(gpu).reasons() == {"power brake"}
    assert card(gpu).processes() == {os.getpid(): 700}


def test_counters_of_times_in_which_clocks_were_kept_down_are_those_that_the_card_has(gpu: StandIn) -> None:
    assert card(gpu).held_back() == {}
    gpu.answers(**{"violation.0": "17", "violation.1": "0"})
    assert card(gpu).held_back() == {"power cap": 17, "heat": 0}


def test_what_a_card_does_not_tell_is_said_by_name(gpu: StandIn) -> None:
    gpu.answers(milliwatts=None)
    with pytest.raises(NvmlError, match="nvmlDeviceGetPowerUsage: Not Supported"):
        card(gpu).power()


def test_without_a_driver_it_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NvmlError, match="there is no NVML"):
        card_of(IDENTITY, library=str(tmp_path / "libnvidia-ml.so.1"))
    assert cuda_identity(library=str(tmp_path / "libcuda.so.1")) == ""


def test_a_driver_that_is_not_loaded_is_said_so(gpu: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAND_IN_NVML")
    with pytest.raises(NvmlError, match="nvmlInit_v2: Driver Not Loaded"):
        card_of(IDENTITY, library=gpu.nvml)


def test_nothing_that_sets_anything_is_named() -> None:
    from mlopt import nvml

    assert "nvmlDeviceSet" not in Path(nvml.__file__).read_text()


def test_this_machine_s_own_card() -> None:
    if not (identity := cuda_identity()):
        pytest.skip("there is no CUDA here")
    found = card_of(identity)
    assert found.name
    assert found.driver
    assert found.used() > 0
    assert 0 < found.clocks()[0] <= found.highest_clocks()[0]
