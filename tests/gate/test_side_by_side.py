"""The four processes of a run: who dies or hangs is named, every pair is mirrored."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from nets import conv_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import WorkerFailed
from mlopt.gate.rounds import ROLES, SideBySide
from mlopt.measure.interleave import Subject
from mlopt.profile import Method


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(conv_net(width=32, side=64), tmp_path / "base.onnx")


def side_by_side(base: Path, **given: float) -> SideBySide:
    artifact = Artifact(ONNX, digest_of(base), base)
    feeds = {"image": np.zeros((1, 3, 64, 64), np.float32)}
    candidate, baseline = (Subject(f"the {name}", artifact, "onnxruntime") for name in ("candidate", "baseline"))
    return SideBySide(candidate, baseline, [feeds], feeds, Method(), 0, **given)  # type: ignore[arg-type]


def test_a_crash_in_a_worker_names_it_and_the_signal(base: Path) -> None:
    with side_by_side(base) as running:
        next(running.pairs())
        os.kill(running.process("candidate"), signal.SIGSEGV)
        with pytest.raises(WorkerFailed, match="the candidate died with signal SIGSEGV"):
            next(running.pairs())


def test_a_hang_in_a_worker_is_stopped(base: Path) -> None:
    with side_by_side(base, limit=6.0) as running:
        os.kill(running.process("control"), signal.SIGSTOP)
        with pytest.raises(WorkerFailed, match="the baseline did not answer 'query' within 6 s"):
            next(running.pairs())


def test_every_pair_is_mirrored_and_all_share_their_cores(base: Path) -> None:
    with side_by_side(base) as running:
        for pair in itertools.islice(running.pairs(), 5):
            assert {role: len(visits) for role, visits in pair.seconds.items()} == dict.fromkeys(ROLES, 2)
        cores = [os.sched_getaffinity(running.process(role)) for role in ROLES]
        assert len({frozenset(one) for one in cores}) == 1
        assert len(cores[0]) == 1
