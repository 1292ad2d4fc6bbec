"""The inside of a model in a process of its own: memory over time, layers, and what is said when there are none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import nets
import numpy as np
import pytest

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.insight import Layer, Peaks
from mlopt.measure import peaks
from mlopt.measure.inside import look_inside
from mlopt.measure.interleave import Subject
from mlopt.store import Store

FEEDS = [{"image": np.zeros((1, 3, 64, 64), np.float32)}]


def subject(tmp_path: Path, *, runtime: str = "onnxruntime") -> Subject:
    path = tmp_path / "model.onnx"
    path.write_bytes(nets.conv_net(side=64).SerializeToString())
    return Subject("net", Artifact(ONNX, digest_of(path), path), runtime)


def test_memory_is_watched_while_the_model_is_loaded_and_runs(tmp_path: Path) -> None:
    found = look_inside(subject(tmp_path), FEEDS, threads=1, batch=1, device="here")
    assert found.why_not == ""
    memory = found.memory
    assert memory
    assert [name for name, _ in memory.marks] == ["imported", "loaded", "answered", "done"]
    assert all(before < after for before, after in pairwise(at for _, at in memory.marks))
    assert all(before < after for before, after in pairwise(memory.seconds))
    assert 10 <= len(memory.seconds) == len(memory.resident) <= 240
    assert 20e6 < max(memory.resident) < 1e9
    assert memory.resident[0] < memory.resident[-1]  # Python alone, and then with a runtime and a model
    assert found.layers
    assert found.layers.batch == 1
    assert {layer.kernel for layer in found.layers.layers} >= {"Conv", "Gemm"}


def test_a_model_that_its_runtime_refuses_is_said(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = nets.conv_net(side=64)
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mystery", "acme"
    path.write_bytes(model.SerializeToString())
    found = look_inside(
        Subject("net", Artifact(ONNX, digest_of(path), path), "onnxruntime"), FEEDS, threads=1, batch=1, device="here"
    )
    assert found.layers is None
    assert found.memory is None
    assert "Mystery" in found.why_not


@pytest.mark.slow
def test_peaks_are_measured_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path / "store")
    found = peaks.measure_peaks(store, device="here", threads=1)
    assert isinstance(found, Peaks)
    assert [peak.kind for peak in found.peaks] == ["fp32", "int8", "memory", "cache"]
    assert all(1e8 < peak.rate < 1e14 for peak in found.peaks)
    assert all(peak.by and peak.method for peak in found.peaks)
    assert (found.grade, found.threads, found.device) == ("measured", 1, "here")
    slow, fast = (Layer((), (), "Conv", "fp32", seconds, 10**9, None) for seconds in (1e3, 1e-9))
    again = peaks.measure_peaks(store, device="here", threads=1, layers=[slow, fast])
    assert all(after.rate >= before.rate for before, after in zip(found.peaks, again.peaks, strict=True))
    assert len(list((tmp_path / "store" / "results").glob("*/data/peaks.json"))) == 2
    monkeypatch.setattr(peaks.subprocess, "run", lambda *a, **k: pytest.fail("measured again"))
    assert peaks.measure_peaks(store, device="here", threads=1, layers=[slow]) == found
    assert peaks.measure_peaks(store, device="here", threads=1, layers=[fast]) == again
