"""What several fresh processes take, and what the runtime counts of its own memory in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net

from mlopt.artifact import ONNX, Artifact
from mlopt.measure.alone import Given, arena_peak, started_again
from mlopt.measure.interleave import Subject, measure_together
from mlopt.profile import Method
from mlopt.units import Seconds

METHOD = Method(warm_up=1, rounds=4, seconds=Seconds(0.3))


def given(*, scenario: str = "single-stream", largest: int = 8) -> Given:
    one, many = ({"image": np.zeros((size, 3, 32, 32), np.float32)} for size in (1, largest))
    return Given([one], many, Method(scenario=scenario, warm_up=1, rounds=4, seconds=Seconds(0.3)))  # type: ignore[arg-type]


def subject(folder: Path, runtime: str = "onnxruntime", **made: int) -> Subject:
    path = folder / f"{made or 'net'}.onnx"
    onnx.save(conv_net(**made), path)
    return Subject("net", Artifact(ONNX, "0" * 64, path), runtime)


def test_one_measured_process_becomes_six_with_a_bound(tmp_path: Path) -> None:
    net, asked = subject(tmp_path), given()
    taken = measure_together(net, [], single=asked.single, offline=asked.offline, method=METHOD, device="d")[0]["net"]
    assert taken.starts.processes == 1
    assert taken.starts.load_time.method == "one fresh process, order statistics, 0 %"
    six = started_again(taken, net, asked)
    starts = six.starts
    assert starts.processes == len(starts.load_times) == 6
    assert starts.load_times[0] == taken.load_time, "the one that was timed is one of them"
    assert starts.peak_memory.high == max(starts.peaks)
    assert starts.peak_memory.method == "median of 6 fresh processes, order statistics, 95 %"
    assert six.peak_memory == int(starts.peak_memory.value)
    assert max(starts.peaks) / min(starts.peaks) < 1.05, "a fresh process holds what the one that was timed holds"
    assert started_again(six, net, asked) == six, "as many as it takes are there"


def test_the_arena_is_asked_in_a_process_of_its_own_at_the_batch_of_the_scenario(tmp_path: Path) -> None:
    net = subject(tmp_path)
    found = [arena_peak(net, asked) for asked in (given(), given(), given(largest=16), given(scenario="offline"))]
    assert found[0] is not None
    assert found[2] is not None
    assert found[0] == found[1] == found[3]
    assert found[2] > 1.5 * found[0]


@pytest.mark.openvino
def test_openvino_counts_nothing(tmp_path: Path) -> None:
    assert arena_peak(subject(tmp_path, "openvino"), given()) is None
