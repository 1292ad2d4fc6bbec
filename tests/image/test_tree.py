"""A tree has one form as a tar, whatever made it and wherever."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from mlopt.image.tree import Entry, Tree, pack, without


def packed(tree: Tree) -> tuple[bytes, str, str]:
    sink = io.BytesIO()
    facts = pack(tree, sink, mtime=0, level=6)
    assert facts.size == len(sink.getvalue())
    return sink.getvalue(), facts.digest, facts.diff_id


def test_the_tar_is_plain_sorted_and_nobodys(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"from disk")
    long = "a" * 90 + "/" + "b" * 200
    tree = {
        "usr/b": Entry("file", 0o644, file),
        "lib": Entry("link", target="usr/lib"),
        "usr/a": Entry("file", 0o755, b"x"),
        "tmp": Entry("folder", 0o1777),
        long: Entry("file", 0o644, "ü".encode()),
    }
    data, digest, diff_id = packed(tree)
    assert hashlib.sha256(data).hexdigest() == digest
    assert data[4:8] == b"\0\0\0\0", "the gzip header holds a time"
    inner = gzip.decompress(data)
    assert hashlib.sha256(inner).hexdigest() == diff_id
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        members = tar.getmembers()
        assert [member.name for member in members] == sorted([*tree, "usr", "a" * 90])
        assert {(member.uid, member.gid, member.uname, member.gname, member.mtime) for member in members} == {
            (0, 0, "", "", 0)
        }
        content = tar.extractfile("usr/b")
        assert content
        assert content.read() == b"from disk"


def test_order_and_umask_do_not_matter() -> None:
    entries = [(f"d{number}/f", Entry("file", 0o644, bytes([number]))) for number in range(20)]
    first = packed(dict(entries))
    before = os.umask(0o077)
    try:
        assert packed(dict(reversed(entries))) == first
    finally:
        os.umask(before)
    assert packed(dict(entries[1:])) != first


@pytest.mark.parametrize(
    "kept",
    [
        "usr/share/doc/a/copyright",
        "a-1.dist-info/licenses/LICENSE",
        "a-1.dist-info/LICENSE.txt",
        "a-1.dist-info/NOTICE",
    ],
)
def test_licences_always_stay(kept: str) -> None:
    tree = {kept: Entry("file"), "usr/share/doc/a/changelog.gz": Entry("file"), "a/b.pyi": Entry("file")}
    assert list(without(tree, ["usr/share/doc/*", "*.pyi", "*.dist-info/*"])) == [kept]


def test_the_link_to_anothers_licence_stays() -> None:
    tree = {"usr/share/doc/libstdc++6": Entry("link", target="gcc-12-base"), "usr/share/doc/x/y": Entry("link")}
    assert list(without(tree, ["usr/share/doc/*"])) == ["usr/share/doc/libstdc++6"]
    assert without({"a": Entry("file")}, []) == {"a": Entry("file")}
