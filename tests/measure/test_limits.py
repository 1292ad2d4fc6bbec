"""Processes that may use less than the machine has: what is applied is so, and what does not fit is named."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import conv_net, save, weights
from onnx import TensorProto, helper

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.commands.limiting import limits_for
from mlopt.emulate.sets import SETS, can_hide, set_like
from mlopt.errors import OutOfMemory
from mlopt.host import detect
from mlopt.measure import alone
from mlopt.measure import limits as measuring
from mlopt.measure.bench import bench
from mlopt.measure.cgroup import Group
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measure.limits import Limits, forget, possible
from mlopt.measure.process import Worker
from mlopt.profile import Method
from mlopt.units import Bytes, Seconds

MIB = 1 << 20
METHOD = Method(rounds=3, seconds=Seconds(0.5), warm_up=2, offline_batch=1)


@pytest.fixture
def groups() -> None:
    if (group := Group.make(64 * MIB)) is None:
        pytest.skip("no control group can be made here")
    group.remove()
    assert not group.folder.exists()


def test_a_worker_runs_on_as_many_cores_as_it_may(tmp_path: Path) -> None:
    worker = Worker.start("subject", Limits(cores=1))
    try:
        assert len(os.sched_getaffinity(worker.process.pid)) == 1
    finally:
        worker.stop(kill=True)


def test_looking_for_a_quiet_core_is_no_part_of_a_cold_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(count: int) -> set[int]:
        time.sleep(3)
        return set(sorted(os.sched_getaffinity(0))[:count])

    monkeypatch.setattr(measuring, "quietest", look)
    monkeypatch.setattr(alone, "_STARTS", 1)
    model = save(conv_net(), tmp_path / "net.onnx")
    subject = Subject("net", Artifact(ONNX, digest_of(model), model), "onnxruntime")
    feeds = [{"image": np.zeros((1, 3, 32, 32), np.float32)}]
    assert alone.cold_start(subject, feeds, threads=1, limits=Limits(cores=1)) < 3


@pytest.mark.usefixtures("groups")
def test_a_model_that_does_not_fit_is_out_of_memory_and_one_that_does_is_measured(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    with pytest.raises(OutOfMemory, match=r"net.onnx does not run in 16 MiB of memory") as raised:
        bench([model], method=METHOD, device="d", limits=(Limits(memory=Bytes(16 * MIB)), ()))
    assert "SIGKILL" in raised.value.where
    (one,) = bench([model], method=METHOD, device="d", limits=(Limits(memory=Bytes(256 * MIB)), ())).models
    assert not one.measurement.thrashes
    assert one.measurement.grade == "measured"
    own = Group.make(64 * MIB)
    assert own
    assert [other for other in own.folder.parent.glob("mlopt-*") if other != own.folder] == [], "none is left behind"
    own.remove()


def test_without_control_groups_what_is_asked_for_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "make", lambda memory: None)
    limits, (told,) = possible(None, Bytes(1 << 30), replace(detect(), memory=Bytes(8 << 30)))
    assert told.applied
    assert "RLIMIT_DATA" in told.how
    worker = Worker.start("subject", limits)
    try:
        assert resource.prlimit(worker.process.pid, resource.RLIMIT_DATA) == (1 << 30, 1 << 30)
    finally:
        worker.stop(kill=True)
    model = save(conv_net(), tmp_path / "net.onnx")
    assert bench([model], method=METHOD, device="d", limits=(limits, ())).models[0].measurement.peak_memory < 1 << 30
    with pytest.raises(OutOfMemory, match="16 MiB"):
        bench([model], method=METHOD, device="d", limits=(Limits(memory=Bytes(16 * MIB)), ()))


def table(folder: Path) -> Artifact:
    """100 MB of rows in a file of their own, which ONNX Runtime maps, and a sum over 100 of them."""
    nodes = [
        helper.make_node("Gather", ["table", "rows"], ["found"]),
        helper.make_node("ReduceMean", ["found"], ["mean"], axes=[1], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "table",
        [helper.make_tensor_value_info("rows", TensorProto.INT64, ["N", 100])],
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 1024])],
        [weights("table", 25_000, 1024)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"), save_as_external_data=True, location="table.data")
    os.sync()  # what is not on disk yet cannot be dropped
    return Artifact(ONNX, digest_of(folder), folder)


@pytest.mark.slow
@pytest.mark.usefixtures("groups")
def test_too_little_memory_to_hold_the_weights_is_told_from_too_little_to_run(tmp_path: Path) -> None:
    subject = Subject("table", table(tmp_path), "onnxruntime")
    draw = np.random.default_rng(0)
    feeds = [{"rows": draw.integers(0, 25_000, (1, 100))} for _ in range(4)]
    found = {}
    for size in (80, 400):
        forget([tmp_path / "table.data"])
        limits = Limits(memory=Bytes(size * MIB))
        both, failures = measure_together(
            subject, [], single=feeds, offline=feeds[0], method=METHOD, device="d", limits=limits
        )
        assert not failures
        found[size] = both["table"]
    assert found[80].thrashes
    assert not found[400].thrashes, "there, each page is read once"
    assert found[80].major_faults > 10 * found[400].major_faults


def test_what_cannot_be_applied_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = replace(detect(), cores=2, memory=Bytes(4 << 30))
    limits, told = possible(3, Bytes(8 << 30), machine)
    assert limits == Limits()
    assert [(one.limit, one.applied) for one in told] == [("cores", False), ("memory", False)]
    assert "2 cores" in told[0].how
    assert "4 GiB" in told[1].how
    other = "linux/arm64" if machine.platform == "linux/amd64" else "linux/amd64"
    far = next(name for name in ("rpi4", "x86-64-avx2") if (name == "rpi4") == (other == "linux/arm64"))
    limits, told = limits_for(far, None, None, machine)
    assert limits.grade == "measured"
    (instructions,) = (one for one in told if one.limit == "instructions")
    assert not instructions.applied
    assert "mlopt parity" in instructions.how


def test_a_target_s_instructions_are_the_set_that_it_is_nearest_to() -> None:
    assert set_like("linux/arm64/v8", ("neon",)).name == "armv8.0"
    assert set_like("linux/arm64", ("neon", "fp16", "dotprod", "i8mm", "sve")).name == "armv8.4-i8mm"
    assert set_like("linux/amd64", ("sse4.2", "avx", "avx2", "fma")).name == "avx2"
    assert set_like("linux/amd64", ("avx2", "avx512", "avx512-vnni", "amx-int8")).name == "avx512-vnni"


@pytest.mark.skipif(not can_hide(SETS["avx2"]), reason="this processor's instruction sets cannot be hidden")
def test_hidden_instructions_make_it_emulated(tmp_path: Path) -> None:
    limits, told = limits_for("x86-64-avx2", 1, None, detect())
    assert [(one.limit, one.asked, one.applied) for one in told] == [
        ("cores", "1", True),
        ("instructions", "avx2", True),
    ]
    model = save(conv_net(), tmp_path / "net.onnx")
    (one,) = bench([model], method=METHOD, device="d", limits=(limits, told)).models
    assert one.measurement.grade == "emulated"
    asks = tmp_path / "asks.py"
    asks.write_text("import numpy._core._multiarray_umath as m; print(m.__cpu_features__['AVX512F'])")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    seen = subprocess.run([*limits.python, "asks"], capture_output=True, text=True, env=environment, check=True)
    assert seen.stdout.strip() == "False"


def laid_out(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root / "sys/fs/cgroup"


def test_version_2_makes_its_group_where_memory_is_handed_down(tmp_path: Path) -> None:
    """A folder laid out as the kernel's: the own group holds processes, so that it hands nothing down."""
    mount = laid_out(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/run.scope\n",
            "sys/fs/cgroup/cgroup.subtree_control": "cpu memory\n",
            "sys/fs/cgroup/user.slice/cgroup.subtree_control": "memory pids\n",
            "sys/fs/cgroup/user.slice/run.scope/cgroup.subtree_control": "\n",
            "sys/fs/cgroup/user.slice/mlopt-999999999-0/nothing": "",
        },
    )
    (mount / "user.slice/mlopt-999999999-0/nothing").unlink()
    group = Group.make(64 * MIB, root=tmp_path)
    assert group
    assert (group.version, group.folder.parent) == (2, mount / "user.slice")
    assert (group.folder / "memory.max").read_text() == str(64 * MIB)
    assert not (mount / "user.slice/mlopt-999999999-0").exists(), "what a killed run left is cleared away"
    (group.folder / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.kills == 1


def test_a_group_of_version_2_is_made_no_further_up_than_beside_our_own(tmp_path: Path) -> None:
    """`run.scope` may be bounded and hands nothing down: beside it, its bound would not hold."""
    mount = laid_out(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/run.scope/inner\n",
            "sys/fs/cgroup/cgroup.subtree_control": "cpu memory\n",
            "sys/fs/cgroup/user.slice/cgroup.subtree_control": "memory pids\n",
            "sys/fs/cgroup/user.slice/run.scope/cgroup.subtree_control": "\n",
            "sys/fs/cgroup/user.slice/run.scope/inner/cgroup.subtree_control": "\n",
        },
    )
    assert Group.make(64 * MIB, root=tmp_path) is None
    assert not list(mount.rglob("mlopt-*"))


def test_no_group_where_none_may_be_made(tmp_path: Path) -> None:
    assert Group.make(64 * MIB, root=tmp_path) is None
    laid_out(tmp_path, {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cgroup.subtree_control": "cpu\n"})
    assert Group.make(64 * MIB, root=tmp_path) is None


@pytest.mark.usefixtures("groups")
def test_the_command_says_what_was_limited_and_ends_with_a_code_of_its_own(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    words = [sys.executable, "-m", "mlopt", "bench", str(model), "-p", "ci-gate", "-q"]
    ended = subprocess.run([*words, "--limit-memory", "16MiB"], capture_output=True, text=True, check=False)
    assert ended.returncode == OutOfMemory.exit_code
    assert "does not run in 16 MiB" in ended.stderr
    ended = subprocess.run(
        [*words, "--limit-memory", "512MiB", "--limit-cores", "1"], capture_output=True, text=True, check=True
    )
    assert "memory limited to 512 MiB: control group" in ended.stdout
    assert "cores limited to 1: affinity" in ended.stdout
    assert "noise: a copy of the first model beside it" in ended.stdout
