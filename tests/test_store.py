"""The store: a step runs once, results appear whole or not at all, two processes share."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from mlopt.artifact import Artifact, Format, digest_of
from mlopt.errors import NoSpaceLeft, StoreUnusable
from mlopt.step import Attempt
from mlopt.store import Store

TEXT = Format("text")


@dataclass(frozen=True, slots=True)
class Shout:
    """Upper-case a text; leaves a mark outside for every real run."""

    name: ClassVar[str] = "shout"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({TEXT})
    produces: ClassVar[Format] = TEXT
    requires: ClassVar[tuple[str, ...]] = ("click",)

    mark: str
    times: int = 1
    fail: bool = False
    seconds: float = 0.0

    def run(self, source: Artifact, into: Path) -> None:
        with open(self.mark, "a") as stream:
            stream.write("ran\n")
        (into / "half").write_text("half-written")
        time.sleep(self.seconds)
        if self.fail:
            raise RuntimeError("on purpose")
        (into / "half").unlink()
        (into / "text").write_text(source.main.read_text().upper() * self.times)


@dataclass(frozen=True, slots=True)
class Slow(Shout):
    """The same, and it goes on where it was stopped, if it kept anything."""

    keeps: bool = True

    def resume(self, source: Artifact, into: Path, attempt: Attempt) -> None:
        if self.keeps:
            (attempt.folder / "kept").write_text("half")
        self.run(source, into)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "st")


@pytest.fixture
def source(store: Store, tmp_path: Path) -> Artifact:
    (tmp_path / "hello.txt").write_text("hello")
    return store.adopt(tmp_path / "hello.txt", TEXT)


def runs(mark: Path) -> int:
    return len(mark.read_text().splitlines()) if mark.exists() else 0


def test_runs_once_and_keeps_lineage(store: Store, source: Artifact, mark: Path) -> None:
    first = store.run(Shout(str(mark)), source)
    again = store.run(Shout(str(mark)), source)
    assert first.main.read_text() == "HELLO"
    assert again == first
    assert runs(mark) == 1
    assert first.lineage[-1].step == "shout"
    assert first.lineage[-1].source == source.digest
    assert first.digest == digest_of(first.path)


def test_key_covers_options_version_and_source(store: Store, source: Artifact, mark: Path, tmp_path: Path) -> None:
    store.run(Shout(str(mark)), source)
    store.run(Shout(str(mark), times=2), source)
    (tmp_path / "other.txt").write_text("other")
    store.run(Shout(str(mark)), store.adopt(tmp_path / "other.txt", TEXT))

    class Newer(Shout):
        version: ClassVar[int] = 2

    store.run(Newer(str(mark)), source)
    assert runs(mark) == 4


def test_failure_is_not_kept(store: Store, source: Artifact, mark: Path) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="on purpose"):
            store.run(Shout(str(mark), fail=True), source)
    assert runs(mark) == 2
    assert list((store.root / "scratch").iterdir()) == []


def test_damaged_result_is_made_again(store: Store, source: Artifact, mark: Path) -> None:
    made = store.run(Shout(str(mark)), source)
    made.main.write_text("HELL")
    assert store.run(Shout(str(mark)), source).main.read_text() == "HELLO"
    (made.path.parent / "result.json").write_text("{")
    assert store.run(Shout(str(mark)), source).main.read_text() == "HELLO"
    assert runs(mark) == 3


def test_adopted_model_does_not_follow_later_edits(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_text("one")
    adopted = store.adopt(path, TEXT)
    path.write_text("two")
    assert adopted.main.read_text() == "one"
    assert store.adopt(path, TEXT).digest != adopted.digest


def _run_in_child(root: Path, source: Artifact, mark: Path) -> None:
    Store(root).run(Shout(str(mark), seconds=0.3), source)


def test_two_processes_do_the_work_once(store: Store, source: Artifact, mark: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_run_in_child, args=(store.root, source, mark)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert runs(mark) == 1


def test_killed_in_the_middle_leaves_no_result(store: Store, source: Artifact, mark: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_run_in_child, args=(store.root, source, mark))
    child.start()
    deadline = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join(10)
    results = [path.name for path in (store.root / "results").iterdir()]
    assert all(name.startswith("adopted-") for name in results)
    made = store.run(Shout(str(mark), seconds=0.3), source)
    assert made.main.read_text() == "HELLO"
    assert list((store.root / "scratch").iterdir()) == [], "the dead process's scratch is swept"


def test_results_of_a_relative_store_are_found_from_anywhere(
    source: Artifact, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store(Path("beside"))
    made = store.run(Shout(str(mark)), source)
    adopted = store.adopt(made.main, TEXT)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "text").symlink_to(adopted.main)
    monkeypatch.chdir("/")
    assert (tmp_path / "link" / "text").read_bytes() == made.main.read_bytes()
    assert (tmp_path / "beside" / "results").is_dir()
    assert store.run(Shout(str(mark)), source) == made


def test_full_disk_is_one_clear_error(store: Store, source: Artifact, mark: Path) -> None:
    class Full(Shout):
        def run(self, source: Artifact, into: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(NoSpaceLeft, match="Nothing was half-written") as caught:
        store.run(Full(str(mark)), source)
    assert "mlopt cache gc" in caught.value.next
    assert list((store.root / "scratch").iterdir()) == []


@pytest.fixture
def mounted(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A small file system with the mount options of the test's parameter, where this user may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield small
    subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("mounted", ["size=256k"], indirect=True)
def test_really_full_disk(tmp_path: Path, mounted: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(1 << 20))
    with pytest.raises(NoSpaceLeft):
        Store(mounted / "st").adopt(tmp_path / "big.bin", TEXT)
    assert not list((mounted / "st").glob("results/*"))
    assert not list((mounted / "st").glob("scratch/*"))


@pytest.mark.parametrize("mounted", ["ro"], indirect=True)
def test_unwritable_store_says_what_to_do(tmp_path: Path, mounted: Path) -> None:
    (tmp_path / "m").write_text("x")
    with pytest.raises(StoreUnusable, match="cannot be written") as caught:
        Store(mounted / "st").adopt(tmp_path / "m", TEXT)
    assert "--cache-dir" in caught.value.next


def test_result_file_is_readable_evidence(store: Store, source: Artifact, mark: Path) -> None:
    made = store.run(Shout(str(mark)), source)
    result = json.loads((made.path.parent / "result.json").read_text())
    assert result["format"] == "text"
    assert result["lineage"][-1]["tools"].keys() == {"click"}


@pytest.mark.parametrize("keeps", [True, False])
def test_a_step_that_kept_nothing_leaves_nothing_unfinished(
    store: Store, source: Artifact, mark: Path, keeps: bool
) -> None:
    with pytest.raises(RuntimeError, match="on purpose"):
        store.run(Slow(str(mark), fail=True, keeps=keeps), source)
    assert len(list((store.root / "unfinished").iterdir())) == keeps


def test_what_a_kill_left_beside_a_result_goes(store: Store, source: Artifact, mark: Path) -> None:
    made = store.run(Slow(str(mark)), source)
    left = store.root / "unfinished" / made.path.parent.name
    left.mkdir()
    (left / "kept").write_text("half")
    assert store.run(Slow(str(mark)), source) == made
    assert not left.exists()
    assert mark.read_text() == "ran\n", "it is not made again"
