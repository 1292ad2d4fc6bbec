"""Measuring: real worker processes, real models; what dies is named; ratios mean what they say."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import WorkerFailed
from mlopt.measure.bench import bench
from mlopt.measure.interleave import Enough, Subject, measure_together, ratio
from mlopt.measure.percentiles import percentile
from mlopt.measure.process import Worker, write_feeds
from mlopt.profile import Method
from mlopt.units import Seconds


def artifact(folder: Path, width: int) -> Artifact:
    save(conv_net(width=width, side=64), folder / "model.onnx")
    return Artifact(ONNX, digest_of(folder), folder)


def feeds(batch: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(0).standard_normal((batch, 3, 64, 64)).astype(np.float32)}


@pytest.fixture
def method() -> Method:
    return Method(rounds=6, seconds=2.0, warm_up=3, offline_batch=4)


def test_a_larger_net_is_measured_as_slower(tmp_path: Path, method: Method) -> None:
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    larger = Subject("larger", artifact(tmp_path / "l", 64), "onnxruntime")
    found, failures = measure_together(
        baseline, [larger], single=[feeds(1)], offline=feeds(4), method=method, device="test machine"
    )
    assert not failures
    slow, base = found["larger"], found["baseline"]
    assert slow.speedup.high < 1.0, "eight times the work is slower, with 95 % confidence"
    assert base.speedup.value == 1.0
    assert slow.latency.p50_high >= slow.latency.p50
    assert slow.latency.p50_high * slow.speedup.low >= base.latency.minimum, "as much over the baseline as it may be"
    assert slow.latency.p50 <= slow.latency.p90 <= slow.latency.p99 <= slow.latency.maximum
    assert slow.latency.queries == len(slow.latency.samples) >= 3 * method.rounds
    assert slow.rounds == method.rounds
    assert 10e6 < slow.memory_after_import < slow.memory_after_load <= slow.peak_memory < 1e9
    assert slow.throughput > 0
    assert slow.load_time > 0
    assert slow.device == "test machine"


@pytest.mark.parametrize(("enough", "rounds"), [(Enough(1e6), 8), (Enough(1e-9), 12), (None, 12)])
def test_rounds_end_once_every_speed_up_is_known_well_enough(
    tmp_path: Path, method: Method, enough: Enough | None, rounds: int
) -> None:
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    larger = Subject("larger", artifact(tmp_path / "l", 16), "onnxruntime")
    asked = dataclasses.replace(method, rounds=12)
    found, _ = measure_together(
        baseline, [larger], single=[feeds(1)], offline=feeds(4), method=asked, device="d", enough=enough
    )
    assert {one.rounds for one in found.values()} == {rounds}


def test_short_visits_have_few_queries(tmp_path: Path, method: Method) -> None:
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    asked = dataclasses.replace(method, rounds=8, seconds=20.0)
    given = {"single": [feeds(1)], "offline": feeds(4), "method": asked, "device": "d"}
    long, short = (
        measure_together(baseline, [], **given, enough=Enough(1.0, visit=visit))[0]["baseline"].latency.queries
        for visit in (0.2, 1e-6)
    )
    assert short == 8 * 3 < long


def test_a_measurement_says_how_many_samples_a_query_had(tmp_path: Path, method: Method) -> None:
    """A model that fixes its batch is fed that, whatever the method asks."""
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    found, _ = measure_together(baseline, [], single=[feeds(3)], offline=feeds(6), method=method, device="d")
    assert (found["baseline"].batch, found["baseline"].offline_batch) == (3, 6)


def test_memory_is_the_worker_s_own(tmp_path: Path, method: Method) -> None:
    """A large parent does not show in its children (ru_maxrss would: it is inherited)."""
    ballast = bytearray(os.urandom(1 << 20) * 600)
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    found, _ = measure_together(baseline, [], single=[feeds(1)], offline=feeds(4), method=method, device="d")
    assert found["baseline"].peak_memory < 300e6 < len(ballast)


def test_a_candidate_that_cannot_load_is_a_failure_and_the_rest_is_measured(tmp_path: Path, method: Method) -> None:
    baseline = Subject("baseline", artifact(tmp_path / "b", 8), "onnxruntime")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "model.onnx").write_bytes(b"no model")
    broken = Subject("broken", Artifact(ONNX, digest_of(tmp_path / "x"), tmp_path / "x"), "onnxruntime")
    found, failures = measure_together(
        baseline, [broken], single=[feeds(1)], offline=feeds(4), method=method, device="d"
    )
    assert set(found) == {"baseline"}
    assert "broken" in failures["broken"].what
    with pytest.raises(WorkerFailed):
        measure_together(broken, [], single=[feeds(1)], offline=feeds(4), method=method, device="d")


@dataclass
class Loaded:
    worker: Worker
    arguments: dict[str, object]


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loaded]:
    worker = Worker.start("subject")
    model = artifact(tmp_path / "m", 8)
    folder = write_feeds(tmp_path / "f", [feeds(1)])
    arguments: dict[str, object] = {
        "runtime": "onnxruntime",
        "model": str(model.main),
        "threads": 1,
        "single": str(folder),
        "offline": str(folder),
    }
    yield Loaded(worker, arguments)
    worker.stop(kill=True)


def test_a_crash_names_the_signal(loaded: Loaded) -> None:
    loaded.worker.ask("load", **loaded.arguments)
    os.kill(loaded.worker.process.pid, signal.SIGSEGV)
    with pytest.raises(WorkerFailed, match="subject died with signal SIGSEGV"):
        loaded.worker.ask("query", count=1)


def test_a_hang_is_stopped(loaded: Loaded) -> None:
    loaded.worker.ask("load", **loaded.arguments)
    os.kill(loaded.worker.process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerFailed, match="did not answer 'query' within 1 s"):
        loaded.worker.ask("query", limit=1, count=1)
    assert loaded.worker.process.poll() is not None


def test_the_worker_loads_no_framework() -> None:
    """Memory after import is the runtime's, not that of things mlopt happens to import."""
    code = "import sys, mlopt.measure.worker; print(sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "tensorflow", "onnx'", "PIL", "jinja2", "click"):
        assert f"'{heavy.strip(chr(39))}'" not in modules


def test_percentile_is_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [percentile(ordered, p) for p in (50, 90, 99, 100)] == [50, 90, 99, 100]
    assert percentile([5.0], 99) == 5.0


def test_ratio_interval_covers_the_truth() -> None:
    """Machine noise common to a round cancels; 95 % intervals cover the true ratio in at least 90 % of runs."""
    draw = random.Random(3)
    covered = 0
    for _ in range(200):
        drift = [draw.uniform(1, 3) for _ in range(20)]
        one = [2.0 * load * draw.gauss(1, 0.02) for load in drift]
        other = [1.0 * load * draw.gauss(1, 0.02) for load in drift]
        found = ratio(one, other)
        covered += found.low <= 2.0 <= found.high
        assert statistics.median(a / b for a, b in zip(one, other, strict=True)) == found.value
    assert covered >= 180


@pytest.mark.openvino
def test_one_model_in_two_runtimes(tmp_path: Path, method: Method) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    found = bench([model], method=method, device="d", runtimes=("onnxruntime", "openvino"))
    assert {name: one.runtime for name, one in found.labelled.items()} == {
        f"{model} (onnxruntime)": "onnxruntime",
        f"{model} (openvino)": "openvino",
    }


def test_bench_tells_digest_and_bytes_of_a_model_with_its_weights(tmp_path: Path) -> None:
    method = Method(warm_up=1, rounds=3, seconds=Seconds(0.2))
    inside = save(conv_net(), tmp_path / "inside.onnx")
    beside = tmp_path / "beside.onnx"
    onnx.save(conv_net(), str(beside), save_as_external_data=True, location="beside.data", size_threshold=64)
    one, other = bench([inside, beside], method=method, device="d").models
    assert one.file_size == inside.stat().st_size
    assert other.file_size == beside.stat().st_size + (tmp_path / "beside.data").stat().st_size
    again = bench([beside], method=method, device="d").models[0]
    assert again.digest == other.digest
    weights = bytearray((tmp_path / "beside.data").read_bytes())
    weights[-1] ^= 1
    (tmp_path / "beside.data").write_bytes(weights)
    assert bench([beside], method=method, device="d").models[0].digest != other.digest
