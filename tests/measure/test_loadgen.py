"""MLPerf's own load generator and our clocks on the same session: the same results."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nets import conv_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.measure.alone import loaded
from mlopt.measure.bench import bench
from mlopt.measure.interleave import Subject
from mlopt.measure.loadgen import DISTRIBUTION, LoadGenResult
from mlopt.measure.server import LATE, arrivals
from mlopt.measure.text import to_terminal
from mlopt.profile import Method
from mlopt.step import installed
from mlopt.units import Seconds

pytestmark = pytest.mark.skipif(not installed(DISTRIBUTION), reason="the extra [loadgen] is not installed")
OVERHEAD = 100e-6  # seconds that a call from LoadGen's thread into Python may take on a busy machine


def under_loadgen(folder: Path, scenario: str, batch: int, **given: float) -> LoadGenResult:
    """A net of a millisecond or so, in a worker, for a second."""
    save(conv_net(side=128, width=32), folder / "model.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(folder), folder), "onnxruntime")
    draw = np.random.default_rng(0)
    feeds = [{"image": draw.standard_normal((batch, 3, 128, 128)).astype(np.float32)} for _ in range(4)]
    with loaded(subject, feeds, threads=1) as worker:
        expected = sorted(worker.ask("query", count=20)["seconds"])[10]
        told = worker.ask("loadgen", scenario=scenario, batch=batch, expected=expected, seconds=1.0, **given)
        return LoadGenResult(**told)


@pytest.mark.slow
def test_single_stream_agrees(tmp_path: Path) -> None:
    found = under_loadgen(tmp_path, "single-stream", 1)
    assert found.valid, found.why_not
    assert found.queries >= 64
    for name in ("p50", "p90", "p99"):
        ours, theirs = found.ours[name], getattr(found, name)
        assert ours <= theirs <= 1.1 * ours + OVERHEAD, name
    assert found.bound is not None
    assert found.bound >= found.p90


@pytest.mark.slow
def test_offline_agrees(tmp_path: Path) -> None:
    found = under_loadgen(tmp_path, "offline", 4)
    assert found.valid, found.why_not
    assert found.samples_per_second == pytest.approx(found.ours["samples_per_second"], rel=0.15)


@pytest.mark.slow
def test_multi_stream_agrees(tmp_path: Path) -> None:
    found = under_loadgen(tmp_path, "multi-stream", 2)
    assert found.valid, found.why_not
    assert found.ours["p50"] <= found.p50 <= 1.1 * found.ours["p50"] + OVERHEAD


@pytest.mark.slow
def test_a_server_holds_and_breaks_where_ours_does(tmp_path: Path) -> None:
    """Far below what it can do both say that it holds, above it both that it breaks."""
    save(conv_net(side=128, width=32), tmp_path / "model.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(tmp_path), tmp_path), "onnxruntime")
    feeds = [{"image": np.zeros((1, 3, 128, 128), np.float32)}]
    with loaded(subject, feeds, threads=1) as worker:
        service = sorted(worker.ask("query", count=50)["seconds"])[25]
        bound = 1.0  # no other work takes the machine away for so long
        for rate, holds in ((0.2 / service, True), (3 / service, False)):
            due = arrivals(rate, 1000 if holds else int(4 * bound / service), seed=0)
            ours = worker.ask("serve", arrivals=due, bound=bound, late=len(due))["seconds"]
            given = {"expected": service, "seconds": 1.0 if holds else 2.0, "rate": rate, "latency": bound}
            theirs = LoadGenResult(**worker.ask("loadgen", scenario="server", batch=1, **given))
            assert (sum(one > bound for one in ours) <= LATE * len(ours)) is holds
            assert theirs.valid is holds, theirs.why_not
            assert (theirs.p99 <= bound) is holds


@pytest.mark.slow
def test_bench_prints_both(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    found = bench([model], method=Method(rounds=3, seconds=Seconds(1.0)), device="d", loadgen=True)
    (one,) = found.models
    assert one.loadgen
    assert one.loadgen.scenario == "single-stream"
    assert f"under LoadGen {one.loadgen.version}: p90" in to_terminal(found, width=200)


def test_without_the_option_it_is_not_loaded() -> None:
    code = "import sys, mlopt.measure.worker, mlopt.measure.bench; print('mlperf_loadgen' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
