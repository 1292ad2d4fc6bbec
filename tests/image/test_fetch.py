"""Inputs are fetched from where the user says, checked, kept, and then never asked for again."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlopt.errors import ImageFailed, NoSpaceLeft
from mlopt.image import fetch
from mlopt.image.fetch import Inputs, inputs_from_environment
from mlopt.image.inputs import Package

CONTENT = b"a package"


def package(content: bytes = CONTENT, filename: str = "pool/a_1.deb") -> Package:
    return Package("a", "1", filename, hashlib.sha256(content).hexdigest(), len(content))


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A Debian archive on 127.0.0.1 with one package in its pool."""
    folder = tmp_path / "archive"
    (folder / "pool").mkdir(parents=True)
    (folder / "pool" / "a_1.deb").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_package_is_fetched_once_and_then_works_offline(tmp_path: Path, mirror: str) -> None:
    inputs = Inputs(tmp_path / "cache", (mirror,))
    (path,) = inputs.debs([package()])
    assert path.read_bytes() == CONTENT
    offline = Inputs(tmp_path / "cache", ("http://127.0.0.1:9",))
    assert offline.debs([package()]) == [path]


def test_a_damaged_cached_input_is_fetched_again(tmp_path: Path, mirror: str) -> None:
    inputs = Inputs(tmp_path / "cache", (mirror,))
    (path,) = inputs.debs([package()])
    path.write_bytes(b"damaged..")
    assert inputs.debs([package()])[0].read_bytes() == CONTENT


def test_the_next_archive_is_asked_when_one_does_not_have_it(tmp_path: Path, mirror: str) -> None:
    assert Inputs(tmp_path, (f"{mirror}/security", mirror)).debs([package()])


def test_another_file_under_the_same_name_is_refused(tmp_path: Path, mirror: str) -> None:
    inputs = Inputs(tmp_path / "cache", (mirror,))
    with pytest.raises(ImageFailed, match="not the file that was locked"):
        inputs.debs([package(b"what was locked")])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_package_that_is_gone_says_how_to_renew_the_lock(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(ImageFailed, match="404") as caught:
        Inputs(tmp_path, (mirror,)).debs([package(filename="pool/a_2.deb")])
    assert "mlopt image lock" in caught.value.next


def test_no_archive_that_answers(tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="no answer"):
        Inputs(tmp_path, ("http://127.0.0.1:9",)).debs([package()])


def test_a_machine_without_apt_is_told_to_name_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "archives", lambda: ())
    with pytest.raises(ImageFailed, match="no apt sources") as caught:
        Inputs(tmp_path).debs([package()])
    assert "--debian-mirror" in caught.value.next


def test_flags_win_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLOPT_DEBIAN_MIRROR", "http://a http://b")
    assert inputs_from_environment(root=tmp_path).debian_mirrors == ("http://a", "http://b")
    assert inputs_from_environment(root=tmp_path, debian_mirror="http://c").debian_mirrors == ("http://c",)


@pytest.mark.slow
def test_a_wheel_that_no_index_has_is_refused(tmp_path: Path) -> None:
    absent = package(filename="mlopt_no_such_wheel-1-cp311-cp311-manylinux_2_28_riscv64.whl")
    with pytest.raises(ImageFailed, match="could not be fetched: No matching distribution found for") as caught:
        Inputs(tmp_path).wheels([absent], python="3.11")
    assert "mlopt image lock" in caught.value.next


def test_a_full_disk_is_said(tmp_path: Path, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(NoSpaceLeft):
        Inputs(tmp_path, (mirror,)).debs([package()])
