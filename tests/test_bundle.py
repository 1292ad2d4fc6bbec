"""The output folder: replaced whole or not at all, and only where it is ours to replace."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from mlopt.artifact import digest_of
from mlopt.bundle import Bundle, check_place, publishing, write_manifest, write_repro
from mlopt.errors import ModelNotFound, NoSpaceLeft, StoreUnusable


def publish(home: Path, text: str) -> None:
    with publishing(home) as folder:
        (folder / "model").mkdir()
        (folder / "model" / "model.onnx").write_text(text)
        write_manifest(folder, {"verdicts": [], "winner": text})


def test_a_bundle_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    home = tmp_path / "out" / "net" / "host"
    publish(home, "one")
    publish(home, "two")
    assert Bundle.load(home).model.read_text() == "two"
    assert sorted(path.name for path in home.parent.iterdir()) == [".host.lock", "host"]


def test_a_run_that_fails_changes_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "host", "one")
    with pytest.raises(FileNotFoundError), publishing(tmp_path / "host") as folder:
        (folder / "half" / "way").touch()
    assert Bundle.load(tmp_path / "host").model.read_text() == "one"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".host.lock", "host"]


def test_what_a_kill_between_the_renames_leaves_is_put_back(tmp_path: Path) -> None:
    publish(tmp_path / "host", "one")
    (tmp_path / "host").rename(tmp_path / ".host.previous")
    (tmp_path / ".host.new").mkdir()
    with pytest.raises(RuntimeError), publishing(tmp_path / "host"):
        raise RuntimeError("and this one fails too")
    assert Bundle.load(tmp_path / "host").model.read_text() == "one"


def test_a_full_disk_leaves_the_old_bundle(tmp_path: Path) -> None:
    publish(tmp_path / "host", "one")
    with pytest.raises(NoSpaceLeft, match="untouched"), publishing(tmp_path / "host"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert Bundle.load(tmp_path / "host").model.read_text() == "one"


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    order = []
    inside = threading.Event()

    def second() -> None:
        inside.wait(5)
        publish(tmp_path / "host", "two")
        order.append("two")

    other = threading.Thread(target=second)
    other.start()
    with publishing(tmp_path / "host") as folder:
        inside.set()
        other.join(0.3)
        write_manifest(folder, {"winner": "one"})
        order.append("one")
    other.join(5)
    assert order == ["one", "two"]
    assert Bundle.load(tmp_path / "host").manifest["winner"] == "two"


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_is_not_ours_is_left_alone(tmp_path: Path, what: str) -> None:
    home = tmp_path / "host"
    if what == "file":
        home.write_text("mine")
    else:
        home.mkdir()
        (home / "mine").touch()
    with pytest.raises(StoreUnusable, match="not written by mlopt"):
        check_place(home)
    with pytest.raises(StoreUnusable), publishing(home):
        pytest.fail("nothing is worked on for a place that cannot be used")
    assert home.exists()


def test_an_empty_folder_and_a_new_one_are_fine(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    check_place(tmp_path / "host")
    check_place(tmp_path / "new" / "deep" / "host")


def test_the_manifest_lists_every_file_but_the_images(tmp_path: Path) -> None:
    (tmp_path / "image" / "blobs").mkdir(parents=True)
    (tmp_path / "image" / "blobs" / "x").touch()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_bytes(b"abc")
    write_manifest(tmp_path, {"target": "host"})
    manifest = json.loads((tmp_path / "bundle.json").read_text())
    assert manifest["files"] == {"model/a": {"sha256": hashlib.sha256(b"abc").hexdigest(), "bytes": 3}}
    assert manifest["schema"] == 1
    assert digest_of(tmp_path / "model" / "a") == manifest["files"]["model/a"]["sha256"]


@pytest.mark.parametrize("content", [None, "", "{", "[1"])
def test_what_is_no_bundle_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "bundle.json").write_text(content)
    with pytest.raises(ModelNotFound, match="not a bundle") as caught:
        Bundle.load(tmp_path)
    assert "OUT/<model>/<target>" in caught.value.next


def test_repro_passes_every_argument_as_it_was(tmp_path: Path) -> None:
    """The script is run by a real shell, with an `mlopt` that prints its arguments."""
    odd = ("mlopt", "compile", "/a b/it's $HOME `x`.onnx", "--target", "host")
    write_repro(tmp_path, odd, {"onnx": "1.0"})
    script = tmp_path / "repro.sh"
    assert script.stat().st_mode & stat.S_IXUSR
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mlopt").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "bin" / "mlopt").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    said = subprocess.run([script, "--out", "x y"], env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [*odd[1:], "--out", "x y"]
