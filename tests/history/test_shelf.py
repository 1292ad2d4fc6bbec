"""The file of a history: what was recorded is there after kills and full disks; what is foreign is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from history.histories import made

from mlopt.errors import ConfigInvalid, MloptError, NoSpaceLeft, StoreUnusable
from mlopt.history.entry import Number, line_of, read_line
from mlopt.history.shelf import History


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system that holds no more than that."""
    small = folder / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can be mounted by root only")
    try:
        yield small
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_what_goes_in_comes_out_once_and_in_order_of_time(tmp_path: Path) -> None:
    entries = made(6)
    with History(tmp_path / "h.db", create=True) as history:
        assert history.add(reversed(entries)) == 12
        assert history.add(entries) == 0
    with History(tmp_path / "h.db") as history:
        assert {one.key for one in history.entries()} == {one.key for one in entries}
        assert [one.time for one in history.entries()] == [one.time for one in entries]
    assert [path.name for path in tmp_path.iterdir()] == ["h.db"]


def test_a_line_holds_all_of_an_entry() -> None:
    for entry in made(2):
        assert read_line(line_of(entry), where="") == entry


@pytest.mark.parametrize(
    "change",
    [
        {"threads": "1"},
        {"verb": "guess"},
        {"dirty": 1},
        {"model": None},
        {"versions": {"a": 1}},
        {"numbers": {"latency-p50": {"value": None}}},
        {"numbers": {"latency-p50": 3}},
        {"more": 1},
    ],
)
def test_a_line_that_is_no_entry_names_its_place(change: dict[str, object]) -> None:
    found = json.loads(line_of(made(1)[0])) | change
    with pytest.raises(ConfigInvalid) as caught:
        read_line(json.dumps(found), where="lines:7")
    assert caught.value.where == "lines:7"


_WRITER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from history.histories import made
from mlopt.history.shelf import History
with History(Path({path!r}), create=True) as history:
    for number, entry in enumerate(made(3000)):
        history.add([entry])
        print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_recorded(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "h.db"
    for wanted in (7, 40):
        program = _WRITER.format(tests=str(root / "tests"), path=str(path))
        writer = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert writer.stdout
        for line in writer.stdout:
            if int(line) >= wanted:
                break
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        said = wanted + 1 + len(writer.stdout.read().splitlines())
        with History(path) as history:
            assert len(history.entries()) >= said
        assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_two_runs_record_at_once(tmp_path: Path, root: Path) -> None:
    path = tmp_path / "h.db"
    program = _WRITER.format(tests=str(root / "tests"), path=str(path)).replace("3000", "20")
    halves = [program, program.replace("made(20)", "made(20, seed=1)")]
    writers = [subprocess.Popen([sys.executable, "-c", one], stdout=subprocess.DEVNULL) for one in halves]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    with History(path) as history:
        assert len(history.entries()) == 80


def refused(path: Path, *, create: bool = True) -> MloptError:
    with pytest.raises(MloptError) as caught, History(path, create=create) as history:
        history.add(made(1))
    return caught.value


def test_a_file_of_another_schema_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path, create=True) as history:
        history.add(made(1))
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 7")
    database.close()
    before = path.read_bytes()
    error = refused(path)
    assert isinstance(error, ConfigInvalid)
    assert "schema 7; this mlopt reads and writes schema 1" in error.what
    assert path.read_bytes() == before


def test_files_that_are_no_history_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("my notes, which are longer than the header of a database is\n" * 20)
    database = tmp_path / "other.db"
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE mine (x)")
    for path in (other, database):
        before = path.read_bytes()
        error = refused(path)
        assert isinstance(error, ConfigInvalid)
        assert "no history of mlopt" in error.what
        assert path.read_bytes() == before
    assert isinstance(refused(tmp_path / "absent.db", create=False), StoreUnusable)
    assert isinstance(refused(tmp_path), StoreUnusable)
    assert isinstance(refused(other / "below.db"), StoreUnusable)


def test_a_damaged_history_is_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History(path, create=True) as history:
        history.add(made(40))
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="damaged"), History(path) as history:
        history.entries()


def test_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    kept = made(5)
    with small_disk(tmp_path, "256k") as small:
        path = small / "h.db"
        with History(path, create=True) as history:
            history.add(kept)
        many = [entry for seed in range(1, 40) for entry in made(10, seed=seed)]
        with pytest.raises(NoSpaceLeft) as caught, History(path) as history:
            history.add(many)
        assert "untouched" in caught.value.what
        with History(path) as history:
            assert {one.key for one in kept} == {one.key for one in history.entries()}


def test_a_disk_too_full_for_a_new_history_is_told_as_full(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path, "16k") as small,
        pytest.raises(NoSpaceLeft),
        History(small / "h.db", create=True) as history,
    ):
        history.add(made(1))


def test_nothing_of_an_import_stays_when_a_part_fails(tmp_path: Path) -> None:
    entries = made(3)
    odd = dataclasses.replace(entries[-1], numbers={"latency-p50": Number("text")})  # type: ignore[arg-type]
    with History(tmp_path / "h.db", create=True) as history:
        with pytest.raises(StoreUnusable):
            history.add([*entries[:-1], odd])
        assert history.entries() == []
