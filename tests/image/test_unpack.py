"""Debian packages and wheels are read as dpkg and pip would, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlopt.errors import ImageFailed
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import docker_folder, read_lock
from mlopt.image.tree import Entry, inside
from mlopt.image.unpack import unpack_deb, unpack_wheel


def ar(*members: tuple[str, bytes]) -> bytes:
    whole = b"!<arch>\n"
    for name, data in members:
        whole += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data
        whole += b"\n" * (len(data) % 2)
    return whole


def tar(*members: tarfile.TarInfo, data: bytes = b"hello") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            member.size = len(data) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return stream.getvalue()


def member(name: str, *, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info


def deb(tmp_path: Path, data: bytes, name: str = "data.tar.xz") -> Path:
    path = tmp_path / "x.deb"
    path.write_bytes(ar(("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)))
    return path


@pytest.mark.parametrize(
    ("name", "compress"), [("data.tar", bytes), ("data.tar.gz", gzip.compress), ("data.tar.xz", lzma.compress)]
)
def test_a_package_is_unpacked_below_usr(tmp_path: Path, name: str, compress: object) -> None:
    assert callable(compress)
    data = tar(
        member("./", kind=tarfile.DIRTYPE, mode=0o755),
        member("./lib/x86_64-linux-gnu/libx.so.1", mode=0o755),
        member("./usr/bin/tool", mode=0o4755),
        member("./usr/bin/alias", kind=tarfile.SYMTYPE, link="tool"),
        member("./usr/bin/twin", kind=tarfile.LNKTYPE, link="./usr/bin/tool"),
    )
    tree = unpack_deb(deb(tmp_path, compress(data), name))
    assert tree == {
        "usr/lib/x86_64-linux-gnu/libx.so.1": Entry("file", 0o755, b"hello"),
        "usr/bin/tool": Entry("file", 0o755, b"hello"),
        "usr/bin/alias": Entry("link", target="tool"),
        "usr/bin/twin": Entry("file", 0o755, b"hello"),
    }


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        ar(("debian-binary", b"2.0\n")),
        ar(("data.tar.xz", b"not xz")),
        ar(("data.tar.lz4", b"x")),
        ar(("data.tar.xz", lzma.compress(tar(member("a")))))[:-40],
        ar(("data.tar", tar(member("../../etc/passwd")))),
        ar(("data.tar", tar(member("dev/null", kind=tarfile.CHRTYPE)))),
    ],
)
def test_a_damaged_package_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.deb"
    path.write_bytes(content)
    with pytest.raises(ImageFailed, match=r"bad\.deb"):
        unpack_deb(path)


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 2000), value=st.integers(0, 255))
def test_no_byte_makes_anything_but_our_error(tmp_path_factory: pytest.TempPathFactory, place: int, value: int) -> None:
    data = bytearray(ar(("debian-binary", b"2.0\n"), ("data.tar.xz", lzma.compress(tar(member("usr/a"), member("b"))))))
    data[place % len(data)] = value
    path = tmp_path_factory.mktemp("deb") / "x.deb"
    path.write_bytes(bytes(data))
    with contextlib.suppress(ImageFailed):
        unpack_deb(path)


def test_a_wheel_is_unpacked_without_scripts(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a/__init__.py", "x = 1")
        wheel.writestr("a-1.data/platlib/b.py", "y = 2")
        wheel.writestr("a-1.data/scripts/a", "#!")
        wheel.writestr("a-1.dist-info/licenses/LICENSE", "free")
    assert sorted(unpack_wheel(path)) == ["a-1.dist-info/licenses/LICENSE", "a/__init__.py", "b.py"]


def test_a_wheel_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("../evil.py", "")
    with pytest.raises(ImageFailed, match="leaves the archive"):
        unpack_wheel(path)
    path.write_bytes(b"PK but no zip")
    with pytest.raises(ImageFailed):
        unpack_wheel(path)


@given(st.text(max_size=30))
def test_no_path_leaves_the_tree(path: str) -> None:
    try:
        clean = inside(path)
    except ValueError:
        return
    assert not clean.startswith("/")
    assert ".." not in clean.split("/")


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not here to compare with")
def test_it_finds_what_dpkg_finds(inputs: Inputs) -> None:
    lock = read_lock(docker_folder() / "base.lock.json").of("linux/arm64")
    for path in inputs.debs(package for package in lock if package.name in ("libc6", "zlib1g")):
        listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", path], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(listed)) as archive:
            wanted = {entry.name.removeprefix("./") for entry in archive if not entry.isdir()}
        found = {name for name, entry in unpack_deb(path).items() if entry.kind != "folder"}
        assert found == {name if name.startswith(("usr/", "etc/")) else f"usr/{name}" for name in wanted}
