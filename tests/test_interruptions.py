"""Killed, interrupted, run twice at once: the store and the output folder stay whole, and nothing is left running."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nets
import pytest
import walks

ASKED = ("compile", "net.onnx", "-p", "./slow.toml", "-r", "fp32", "-r", "int8-static", "--no-image")
SLOW = """\
schema = 1
summary = "long enough to be caught in the middle"
[method]
rounds = 400
seconds = "30s"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    model = nets.save(nets.conv_net(), tmp_path / "net.onnx")
    walks.labelled(tmp_path / "samples.npz", model)
    (tmp_path / "slow.toml").write_text(SLOW)
    walks.profile(tmp_path)
    return tmp_path


def start(place: Path, *more: str) -> subprocess.Popen[str]:
    """A compile in a session of its own, as a shell would start it in a terminal."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlopt", *ASKED, "--samples", "samples.npz", *more],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def until(process: subprocess.Popen[str], line: str) -> None:
    """Wait for a line of progress; then the run is at what follows."""
    assert process.stderr
    for said in process.stderr:
        if line in said:
            return
    raise AssertionError(f"{line!r} was never printed; exit code {process.wait()}")


def session(leader: int) -> list[int]:
    """Processes of the session that `leader` began, except those that are only waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def gone(leader: int, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while session(leader) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not session(leader)


def whole(folder: Path) -> dict[str, object]:
    """The manifest, after every file was held against it."""
    manifest: dict[str, object] = json.loads((folder / "bundle.json").read_text())
    listed = manifest["files"]
    assert isinstance(listed, dict)
    for name, facts in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == facts["sha256"], name
    return manifest


def old_bundle(place: Path) -> dict[str, object]:
    """A bundle in the output folder from before, of another recipe, profile and store: all steps are still to do."""
    asked = ("compile", "net.onnx", "-p", "./fast.toml", "-r", "fp16", "--ship", "fp16", "--no-image", "-q")
    ended = walks.mlopt(*asked, cwd=place, env={"MLOPT_CACHE_DIR": str(place / "other")})
    assert ended.returncode in (0, 1), ended.stderr
    return whole(place / "out" / "net" / "host")


def finish(place: Path) -> None:
    """The same again, undisturbed: it works, and replaces the old bundle."""
    ended = walks.mlopt(*ASKED, "--samples", "samples.npz", "-p", "./fast.toml", "-q", cwd=place)
    assert ended.returncode in (0, 1), ended.stderr
    manifest = whole(place / "out" / "net" / "host")
    assert manifest["profile"] == "fast"
    assert sorted(path.name for path in (place / "out" / "net").iterdir()) == [".host.lock", "host"]
    assert list((place / "store" / "scratch").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["normalize-onnx", "optimize-graph", "evaluate", "measuring", "publishing"])
def test_killed_in_the_middle(place: Path, moment: str) -> None:
    before = old_bundle(place)
    process = start(place)
    if moment == "measuring":
        wait_for_workers(process)
    else:
        until(process, {"publishing": "measure"}.get(moment, moment))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert gone(process.pid, within=8), "its workers end with it"
    folder = place / "out" / "net" / "host"
    if not folder.exists():  # exactly between the two renames: the next run puts it back first
        folder = place / "out" / "net" / ".host.previous"
    after = whole(folder)
    assert after == before or moment == "publishing"
    finish(place)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["start", "normalize-onnx", "evaluate", "measuring"])
@pytest.mark.parametrize("whom", ["the group, as Ctrl-C does", "the process alone"])
def test_interrupted(place: Path, moment: str, whom: str) -> None:
    before = old_bundle(place)
    process = start(place)
    if moment == "start":
        time.sleep(0.4)
    elif moment == "measuring":
        wait_for_workers(process)
    else:
        until(process, moment)
    if whom == "the process alone":
        os.kill(process.pid, signal.SIGINT)
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    # Python itself ends by the signal when it came within an exec(), as in an import: 130 to a shell, too.
    assert process.returncode in (130, -signal.SIGINT), err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert gone(process.pid, within=3)
    assert whole(place / "out" / "net" / "host") == before
    assert [path for path in (place / "out" / "net").iterdir() if path.name not in (".host.lock", "host")] == []
    assert not list((place / "store").glob("scratch/*"))


def wait_for_workers(process: subprocess.Popen[str]) -> None:
    """Until all three models are loaded for measuring."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if sum(b"mlopt.measure.worker" in _command(pid) for pid in session(process.pid)) >= 3:
            time.sleep(1.0)
            return
        time.sleep(0.05)
    raise AssertionError("it never came to measuring")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.slow
def test_two_at_once_on_one_store_and_one_output_folder(place: Path) -> None:
    both = [start(place, "-p", "./fast.toml") for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    whole(place / "out" / "net" / "host")
    assert list((place / "store" / "scratch").iterdir()) == []
    made = [line for _, err in ends for line in err.splitlines() if "quantize-static" in line]
    assert len(made) == 1, "the second waited for the first one's result"
