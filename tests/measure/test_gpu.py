"""What a GPU does while a model is measured on it: real workers and rounds, on a driver that stands in for NVIDIA's.

What this cannot show: that a real card answers so (tests/test_nvml.py asks it, where there is one).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnxruntime as ort
import pytest
from nets import conv_net, save
from stand_in_gpu import IDENTITY, StandIn, mlopt, stand_in_gpu

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.measure import json_schema
from mlopt.measure.gpu import Watch, _Memory, memory_peak
from mlopt.measure.interleave import Subject
from mlopt.measure.limits import UNLIMITED
from mlopt.measure.process import write_feeds
from mlopt.nvml import card_of
from mlopt.report.gpu import held_back, said

CUDA = "CUDAExecutionProvider" in ort.get_available_providers()
RAN = {"card": IDENTITY, "cuda_graph": False, "nodes": {"CUDAExecutionProvider": 40}, "on_cpu": {}}
PROFILE = 'schema = 1\nsummary = "quick"\n[method]\nrounds = 3\nseconds = "0.3 s"\nwarm-up = 1\n'


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = stand_in_gpu(tmp_path / "gpu")
    for name in ("STAND_IN_NVML", "LD_LIBRARY_PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, made.environment[name])
    return made


def watch(gpu: StandIn) -> Watch:
    return Watch(RAN, card_of(IDENTITY, library=gpu.nvml))


def peak(gpu: StandIn, folder: Path) -> tuple[int | None, str]:
    model = save(conv_net(), folder / "net.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(model), model), "stand-in-gpu")
    feeds = str(write_feeds(folder / "feeds", [{"image": np.zeros((1, 3, 32, 32), np.float32)}]))
    return memory_peak(watch(gpu), subject, (feeds, feeds), threads=1, limits=UNLIMITED)


def test_memory_is_that_of_the_process_where_nvml_tells_it(gpu: StandIn, tmp_path: Path) -> None:
    assert peak(gpu, tmp_path) == (612_000_000, "of a fresh process, as NVML tells it")


def test_a_card_without_room_for_one_more_costs_that_figure_alone(gpu: StandIn, tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(model), model), "stand-in-gpu")
    feeds = str(write_feeds(tmp_path / "feeds", [{"wrong": np.zeros(1, np.float32)}]))
    found, why = memory_peak(watch(gpu), subject, (feeds, feeds), threads=1, limits=UNLIMITED)
    assert found is None
    assert why.startswith("net cannot be measured: ")


@pytest.mark.parametrize("why", ["hidden, as in a container", "not available, as in some virtual machines"])
def test_memory_is_that_of_the_whole_card_where_it_does_not_and_that_is_said(
    gpu: StandIn, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why.startswith("hidden"):
        gpu.answers(hides_processes="1")
        expected = 612_000_000
    else:
        monkeypatch.setenv("STAND_IN_BYTES", "not known")
        expected = 300_000_000
    found, method = peak(gpu, tmp_path)
    assert found == expected  # not what the card held before
    assert method.startswith("of the whole card above what it held before")


def test_a_stranger_of_that_number_is_not_taken_for_the_process(gpu: StandIn) -> None:
    """In a container an old driver gives the numbers that processes have outside of it."""
    (gpu.folder / f"pid.{os.getpid()}").write_text("7000000000")
    readings = _Memory(card_of(IDENTITY, library=gpu.nvml))
    with readings.sampled(os.getpid()):
        gpu.answers(used="51000000")
    assert readings.peak()[0] == 50_000_000
    assert "whole card" in readings.peak()[1]


def test_a_peak_is_seen_though_it_has_passed(gpu: StandIn) -> None:
    import time

    readings = _Memory(card_of(IDENTITY, library=gpu.nvml))
    with readings.sampled(os.getpid()):
        for held in ("100", "900", "300"):
            (gpu.folder / f"pid.{os.getpid()}").write_text(held)
            time.sleep(0.1)
    assert readings.peak()[0] == 900


def test_clocks_are_read_after_each_round(gpu: StandIn) -> None:
    one = watch(gpu)
    for megahertz in ("1980", "1410", "1980"):
        with one.round():
            gpu.answers(sm=megahertz)
    found = one.found(without_copies=0.0021, memory=(612_000_000, "of it"))
    assert found.clocks
    assert (found.clocks.readings, found.clocks.sm, found.clocks.sm_lowest, found.clocks.sm_highest) == (
        *(3, 1980),
        *(1410, 1980),
    )
    assert (found.clocks.power, found.clocks.power_limit, found.clocks.temperature) == (391.657, 700.0, 61)
    assert found.unread == ()
    assert said(found) == (
        "NVIDIA H200, driver 580.159.04: 40 of 40 nodes by CUDA; latencies include the copies in and out, without "
        "which p50 is 2.10 ms; at most 612 MB of GPU memory (of it); SM at 1980 of 1980 MHz, 1410 at the lowest, "
        "memory at 3201 of 3201 MHz, 392 of 700 W, up to 61 °C, read after each of 3 rounds"
    )
    assert held_back(found) == ""


def test_a_card_that_was_held_back_is_seen_by_its_reason_and_by_its_counters(gpu: StandIn) -> None:
    gpu.answers(**{"violation.1": "5"})
    one = watch(gpu)
    with one.round():
        pass
    with one.round():
        gpu.answers(reasons="0x4")
    with one.round():
        gpu.answers(**{"reasons": "0x1", "violation.1": "6"})  # it cooled down before anybody asked
    found = one.found(without_copies=None, memory=(None, ""))
    assert found.clocks
    assert found.clocks.held_back == {"heat": 1, "power cap": 1}
    assert held_back(found) == "the GPU's clocks were held back (heat in 1, power cap in 1 of 3 rounds)"


def test_what_a_card_does_not_tell_is_said_once_and_the_rest_is_there(gpu: StandIn) -> None:
    gpu.answers(milliwatts=None, reasons=None)
    one = watch(gpu)
    for _ in range(2):
        with one.round():
            pass
    found = one.found(without_copies=None, memory=(None, ""))
    assert found.clocks
    assert found.clocks.power is None
    assert found.clocks.sm == 1980
    assert found.unread == (
        "power: nvmlDeviceGetPowerUsage: Not Supported",
        "what keeps clocks down: nvmlDeviceGetCurrentClocksThrottleReasons: Not Supported",
    )


def test_without_nvml_the_rest_of_a_measurement_is_there(tmp_path: Path) -> None:
    for card, why in (("", "CUDA does not say which card it is"), (IDENTITY, "there is no NVML")):
        one = Watch.of({**RAN, "card": card})
        if one.card:
            pytest.skip("this machine has NVML")
        with one.round():
            pass
        subject = Subject("net", Artifact(ONNX, "", tmp_path), "stand-in-gpu")
        memory = memory_peak(one, subject, ("", ""), threads=1, limits=UNLIMITED)
        found = one.found(without_copies=0.002, memory=memory)
        assert found.memory is None
        assert found.clocks is None
        assert why in found.unread[0]
        assert "not read: clocks and memory" in said(found)


@pytest.mark.slow
def test_bench_says_what_ran_on_a_gpu_and_how_it_ran(gpu: StandIn, tmp_path: Path) -> None:
    save(conv_net(), tmp_path / "net.onnx")
    (tmp_path / "quick.toml").write_text(PROFILE)
    gpu.answers(reasons="0x40")
    runtimes = ("--runtime", "onnxruntime", "--runtime", "stand-in-gpu", "--runtime", "stand-in-graph")
    asked = ("bench", str(tmp_path / "net.onnx"), *runtimes, "-p", str(tmp_path / "quick.toml"), "--json", "-q")
    ended = mlopt(gpu, *asked)
    assert ended.returncode == 0, ended.stderr
    jsonschema.validate(json.loads(ended.stdout), json.loads(json_schema.FILE.read_text()))
    found: list[dict[str, Any]] = [one["measurement"]["gpu"] for one in json.loads(ended.stdout)["models"]]
    assert found[0] is None
    assert [(one["cuda_graph"], one["memory"], one["card"]) for one in found[1:]] == [
        (False, 612_000_000, IDENTITY),
        (True, 612_000_000, IDENTITY),
    ]
    for one in found[1:]:
        assert one["without_copies"] > 0
        assert one["clocks"]["held_back"] == {"heat, by the hardware": 3}
        assert sum(one["on_cpu"].values()) == one["nodes"]["CPUExecutionProvider"] > 0


@pytest.mark.slow
def test_what_a_change_of_shapes_costs_is_in_no_time(gpu: StandIn, tmp_path: Path) -> None:
    """A batch of 8 takes 0.2 s the first time: 40 samples a second, if that were its throughput."""
    save(conv_net(), tmp_path / "net.onnx")
    (tmp_path / "quick.toml").write_text(PROFILE.replace("rounds = 3", "rounds = 8"))
    runtimes = ("--runtime", "onnxruntime", "--runtime", "stand-in-choosing")
    ended = mlopt(
        gpu, "bench", str(tmp_path / "net.onnx"), *runtimes, "-p", str(tmp_path / "quick.toml"), "--json", "-q"
    )
    assert ended.returncode == 0, ended.stderr
    found = [one["measurement"] for one in json.loads(ended.stdout)["models"]]
    assert found[1]["throughput"] > 100
    assert found[1]["latency"]["p90"] < 0.1


@pytest.mark.slow
def test_a_machine_with_a_gpu_measures_every_model_on_it_too(gpu: StandIn, tmp_path: Path) -> None:
    with_onnxruntime_gpu(gpu, "stand_in_gpu_runners:Plain")
    save(conv_net(), tmp_path / "net.onnx")
    (tmp_path / "quick.toml").write_text(PROFILE)
    ended = mlopt(gpu, "bench", str(tmp_path / "net.onnx"), "-p", str(tmp_path / "quick.toml"), "--json", "-q")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert [one["measurement"]["runtime"] for one in found["models"]] == ["onnxruntime", "onnxruntime-cuda"]
    assert found["models"][0]["measurement"]["gpu"] is None
    assert found["models"][1]["measurement"]["gpu"]["name"] == "NVIDIA H200"
    assert found["left_out"] == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "why"),
    [
        ("", "The runtime onnxruntime-cuda needs onnxruntime-gpu, which is not installed. pip install 'mlopt[onnx"),
        ("mlopt.runners.onnxruntime_cuda:OnnxRuntimeCudaRunner", "this build of it has no CUDA provider"),
    ],
)
def test_where_the_gpu_cannot_measure_the_rest_is_measured_and_why_is_said(
    gpu: StandIn, tmp_path: Path, runner: str, why: str
) -> None:
    if CUDA:
        pytest.skip("this ONNX Runtime has a CUDA provider")
    if runner:
        with_onnxruntime_gpu(gpu, runner)
    save(conv_net(), tmp_path / "net.onnx")
    (tmp_path / "quick.toml").write_text(PROFILE)
    ended = mlopt(gpu, "bench", str(tmp_path / "net.onnx"), "-p", str(tmp_path / "quick.toml"), "-q")
    assert ended.returncode == 0, ended.stderr
    shown = " ".join(ended.stdout.split())
    assert "was not measured: " in shown
    assert why in shown
    asked = mlopt(gpu, "bench", str(tmp_path / "net.onnx"), "--runtime", "onnxruntime-cuda", "-q")
    assert asked.returncode == (23 if runner else 3), asked.stderr
    assert why.partition(". ")[0] in asked.stderr


def with_onnxruntime_gpu(gpu: StandIn, runner: str) -> None:
    """As if onnxruntime-gpu were installed, with this runner for it."""
    information = gpu.folder / "plugin" / "onnxruntime_gpu-1.26.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.26\n")
    (information / "entry_points.txt").write_text(f"[mlopt.runners]\nonnxruntime-cuda = {runner}\n")
