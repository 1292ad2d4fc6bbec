"""Keeping a store: damage is found and removed, and nothing that a live process needs ever goes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from mlopt.artifact import Artifact, Format
from mlopt.store import Store
from mlopt.units import Bytes, Seconds
from mlopt.upkeep import Entry, clean, entries, verify

TEXT = Format("text")
DAY = 86400.0
OLD = Seconds(7 * DAY)


@dataclass(frozen=True, slots=True)
class Repeat:
    name: ClassVar[str] = "repeat"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({TEXT})
    produces: ClassVar[Format] = TEXT
    requires: ClassVar[tuple[str, ...]] = ()

    times: int

    def run(self, source: Artifact, into: Path) -> None:
        (into / "text").write_text(source.main.read_text() * self.times)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "st"


@pytest.fixture
def made(root: Path, tmp_path: Path) -> Artifact:
    """A result of a step in the store, next to the source that it was made from."""
    (tmp_path / "source.txt").write_text("ab")
    store = Store(root)
    return store.run(Repeat(3), store.adopt(tmp_path / "source.txt", TEXT))


def age(entry: Entry, days: float) -> None:
    then = time.time() - days * DAY
    os.utime(entry.path, (then, then))


def result(root: Path) -> Entry:
    return next(entry for entry in entries(root) if entry.made_by == "repeat")


def test_an_absent_store_is_an_empty_one(root: Path) -> None:
    assert entries(root) == ()
    assert verify(root) == ()
    assert clean(root, keep=Bytes(0)).removed == ()
    assert not root.exists()


def test_entries_say_what_made_them_longest_unused_first(root: Path, made: Artifact) -> None:
    age(result(root), 3)
    found = entries(root)
    assert [entry.made_by for entry in found] == ["repeat", "source.txt"]
    assert found[0].bytes > 6


def test_a_whole_store_stays_whole(root: Path, made: Artifact) -> None:
    (root / "inputs" / made.digest).mkdir(parents=True)
    seen: list[Entry] = []
    assert [damage.entry.room for damage in verify(root, on_entry=seen.append)] == ["inputs"]  # an empty one
    assert len(seen) == 3
    assert verify(root) == ()
    assert made.main.read_text() == "ababab"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda home: (home / "data" / "text").write_text("ababaX"), "content"),
        (lambda home: (home / "data" / "text").write_text("aba"), "another size"),
        (lambda home: (home / "data" / "more").write_text(""), "more has another size"),
        (lambda home: (home / "data" / "text").unlink(), "another size"),
        (lambda home: (home / "result.json").write_text("{"), "result.json"),
        (lambda home: (home / "result.json").write_text("[]"), "result.json"),
    ],
)
def test_damage_is_found_removed_and_made_again(root: Path, made: Artifact, tmp_path: Path, damage, reason) -> None:
    home = result(root).path
    damage(home)
    (found,) = verify(root)
    assert reason in found.reason
    assert not home.exists()
    store = Store(root)
    again = store.run(Repeat(3), store.adopt(tmp_path / "source.txt", TEXT))
    assert again.main.read_text() == "ababab"
    assert not list((root / "scratch").iterdir())


def test_a_changed_input_of_images_is_removed(root: Path, tmp_path: Path) -> None:
    from mlopt.artifact import digest_of

    file = tmp_path / "one.deb"
    file.write_bytes(b"package")
    home = root / "inputs" / digest_of(file)
    home.mkdir(parents=True)
    (home / "one.deb").write_bytes(b"package")
    assert verify(root) == ()
    (home / "one.deb").write_bytes(b"packagE")
    assert [found.entry.made_by for found in verify(root)] == ["one.deb"]
    assert not home.exists()


def test_layers_of_bases_and_native_servers_are_looked_after_too(root: Path) -> None:
    """A base may have gigabytes. Of one in a layout on disk there is no copy here, only what was read of it."""
    content = b"a layer"
    names = [hashlib.sha256(content).hexdigest(), "1" * 64, "2" * 64]
    for name, file in zip(names, ("blob", "blob", "facts.json"), strict=True):
        (root / "bases" / name).mkdir(parents=True)
        (root / "bases" / name / file).write_bytes(content)
    (root / "servers" / "3").mkdir(parents=True)
    assert {(entry.room, entry.made_by) for entry in entries(root)} == {
        ("bases", "layer of a base"),
        ("servers", "native server"),
    }
    assert [(one.entry.key, one.reason) for one in verify(root)] == [("1" * 64, "its sha256 is not its name")]
    for entry in entries(root):
        age(entry, 8)
    assert len(clean(root, older_than=OLD).removed) == 3


def test_what_was_just_used_stays(root: Path, made: Artifact) -> None:
    cleaned = clean(root, keep=Bytes(0))
    assert cleaned.removed == ()
    assert len(cleaned.kept) == 2
    assert made.main.exists()


def test_only_what_is_older_goes(root: Path, made: Artifact) -> None:
    age(result(root), 8)
    cleaned = clean(root, older_than=OLD)
    assert [entry.made_by for entry in cleaned.removed] == ["repeat"]
    assert cleaned.bytes > 0
    assert [entry.made_by for entry in entries(root)] == ["source.txt"]


def test_the_longest_unused_go_until_enough_is_free(root: Path, made: Artifact) -> None:
    for days, entry in zip((9, 2), entries(root), strict=True):
        age(entry, days)
    oldest, newest = entries(root)
    cleaned = clean(root, keep=newest.bytes)
    assert [entry.key for entry in cleaned.removed] == [oldest.key]
    assert [entry.key for entry in entries(root)] == [newest.key]


def test_a_dry_run_removes_nothing_and_says_the_same(root: Path, made: Artifact) -> None:
    age(result(root), 8)
    said = clean(root, older_than=OLD, dry_run=True)
    assert made.main.exists()
    assert clean(root, older_than=OLD).removed == said.removed


@pytest.mark.parametrize("dry_run", [True, False])
def test_what_is_being_made_stays(root: Path, made: Artifact, dry_run: bool) -> None:
    entry = result(root)
    age(entry, 8)
    with (root / "locks" / entry.key).open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        cleaned = clean(root, older_than=OLD, dry_run=dry_run)
        assert [kept.entry.key for kept in cleaned.kept] == [entry.key]
        assert cleaned.removed == ()
        (entry.path / "data" / "text").write_text("damaged")
        assert verify(root) == ()  # the holder of the lock is about to replace it
    assert made.main.exists()
    assert len(verify(root)) == 1


def test_what_another_process_has_open_stays(root: Path, made: Artifact) -> None:
    age(result(root), 8)
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; f = open(sys.argv[1]); print('open', flush=True); sys.stdin.read()",
            made.main,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert reader.stdout
        assert reader.stdout.readline() == b"open\n"
        age(result(root), 8)
        (kept,) = clean(root, older_than=OLD).kept
        assert "open" in kept.reason
        assert made.main.exists()
    finally:
        reader.communicate()
    assert len(clean(root, older_than=OLD).removed) == 1


def test_folders_without_write_permission_can_go(root: Path) -> None:
    inner = root / "rootfs" / "0" / "usr"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    inner.chmod(0o555)
    (entry,) = entries(root)
    age(entry, 8)
    assert [removed.key for removed in clean(root, older_than=OLD).removed] == ["0"]
    assert not list((root / "scratch").iterdir())


def test_leftovers_of_dead_processes_go_and_live_ones_stay(root: Path, made: Artifact) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (root / "scratch" / f"{pid}-x").mkdir()
    clean(root)
    assert [path.name for path in (root / "scratch").iterdir()] == [f"{os.getpid()}-x"]


def test_what_a_stopped_step_left_goes_when_it_is_old_and_nobody_goes_on_with_it(root: Path) -> None:
    left = [root / "unfinished" / key for key in ("abandoned", "fresh", "going-on")]
    for folder in left:
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").write_text("half")
    for entry in entries(root):
        age(entry, 0.5 if entry.key == "fresh" else 8)
    (root / "locks").mkdir()
    with (root / "locks" / "going-on").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cleaned = clean(root, older_than=OLD)
    assert [entry.key for entry in cleaned.removed] == ["abandoned"]
    assert [folder.exists() for folder in left] == [False, True, True]
