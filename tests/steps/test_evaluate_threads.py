"""Evaluation computes on all threads that it is given, and on no more, however many queries run at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from nets import matmul_net
from trials import source

from mlopt import registry
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature_of
from mlopt.steps import evaluate
from mlopt.steps.evaluate import Evaluate


class Counting(OnnxRuntimeRunner):
    """ONNX Runtime, and how many threads this process has had while it answered."""

    most: ClassVar[int] = 0
    all_ask: ClassVar[threading.Barrier]

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        self.all_ask.wait()
        Counting.most = max(Counting.most, _threads())
        return super().infer(feeds)


@pytest.mark.parametrize(("threads", "at_once"), [(1, 4), (2, 2), (3, 2), (4, 4), (6, 4), (7, 4), (16, 4), (5, 1)])
def test_as_many_threads_compute_as_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, at_once: int
) -> None:
    monkeypatch.setattr(registry, "load", lambda group, name: Counting)
    monkeypatch.setattr(evaluate, "survive", lambda *asked: None)  # in another process, and with the true runner
    monkeypatch.setattr(evaluate, "workers", lambda: at_once)
    Counting.most, asking = 0, min(threads, at_once)
    Counting.all_ask = threading.Barrier(asking, timeout=10)
    model = matmul_net()
    samples = GeneratedSamples(signature_of(model), 32, 0)
    before = _threads()
    Evaluate(samples, "onnxruntime", "this", threads=threads).run(source(tmp_path / "m", model), tmp_path)
    one = 1 if asking == 1 else 0  # the thread of the test computes itself only where it asks alone
    assert Counting.most - before + one == threads


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))
