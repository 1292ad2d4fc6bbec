"""Memory of several processes with one model: what they share counts once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from nets import matmul_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.measure.alone import pages_of, shared
from mlopt.measure.bench import bench
from mlopt.measure.interleave import Subject
from mlopt.measure.text import to_terminal
from mlopt.profile import Method
from mlopt.units import Seconds


def test_two_processes_take_less_than_twice_one_and_more_than_one(tmp_path: Path) -> None:
    save(matmul_net(), tmp_path / "model.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(tmp_path / "model.onnx"), tmp_path / "model.onnx"), "onnxruntime")
    tensor = onnx.load(str(subject.artifact.main)).graph.input[0]
    shape = [one.dim_value or 1 for one in tensor.type.tensor_type.shape.dim]
    feeds = [{tensor.name: np.zeros(shape, np.float32)}]
    found = shared(subject, feeds, workers=2, threads=1)
    assert found.workers == 2
    assert 2 * found.own < found.together, "they share the runtime's pages"
    assert 5e6 < found.own < 200e6


def test_what_a_process_has_is_summed() -> None:
    code = "import sys; b = bytearray(range(256)) * (50 << 12); print('ready', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    process.stdout.readline()
    pages = pages_of(process.pid)
    process.communicate()
    assert 50 << 20 < pages["Private_Dirty"] <= pages["Pss"] <= pages["Rss"] < 150 << 20


def test_bench_tells_it_where_it_is_asked_for(tmp_path: Path) -> None:
    model = save(matmul_net(), tmp_path / "net.onnx")
    method = Method(rounds=3, seconds=Seconds(0.3))
    found = bench([model], method=method, device="d", workers=2)
    assert found.models[0].shared
    assert f"2 processes of {model} take" in to_terminal(found, width=300)
    assert bench([model], method=method, device="d").models[0].shared is None
