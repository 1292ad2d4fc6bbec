"""Locks, apt sources and versions: read strictly, resolved as apt would, and never naming a host."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlopt.errors import ImageFailed
from mlopt.image.apt import Archive, archives, paragraphs
from mlopt.image.debversion import version_key
from mlopt.image.inputs import PLATFORMS, docker_folder, read_lock, read_native, read_wanted, write_lock
from mlopt.image.lock import lock_debs, newest, resolve

GOOD = {"name": "a", "version": "1", "filename": "pool/a.deb", "sha256": "0" * 64, "size": 3}


@pytest.mark.parametrize("name", ["base.lock.json", "runtime.lock.json", "native.lock.json"])
def test_the_shipped_locks_are_whole_and_name_no_host(name: str, tmp_path: Path) -> None:
    path = docker_folder() / name
    lock = read_lock(path)
    assert tuple(lock.packages) == PLATFORMS
    names = [[package.name for package in lock.of(platform)] for platform in PLATFORMS]
    assert names[0] == names[1]
    versions = [{package.name: package.version for package in lock.of(platform)} for platform in PLATFORMS]
    assert versions[0] == versions[1], "one architecture has older packages than the other"
    assert not re.search(r"://|\bhttps?\b|\bwww\b", path.read_text())
    write_lock(lock, tmp_path / name)
    assert (tmp_path / name).read_bytes() == path.read_bytes()


def test_every_wanted_package_is_locked() -> None:
    wanted, folder = read_wanted(docker_folder()), docker_folder()
    base = {package.name for package in read_lock(folder / "base.lock.json").of(PLATFORMS[0])}
    assert set(wanted.base.packages) <= base
    assert not base.intersection(wanted.base.without)
    runtime = {package.name for package in read_lock(folder / "runtime.lock.json").of(PLATFORMS[0])}
    assert set(wanted.wheels) == runtime
    native = read_native(folder)
    assert set(native.base.packages) <= base
    assert set(native.runtime.packages) <= runtime
    assert set(native.compiler.packages) == {
        package.name for package in read_lock(folder / "native.lock.json").of(PLATFORMS[0])
    }


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"schema": 2, "packages": {}}',
        json.dumps({"schema": 1, "packages": {"linux/amd64": [{"name": "a"}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"sha256": "xyz"}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"size": 0}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"filename": "/etc/passwd"}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"filename": "../../x"}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"filename": "http://host/x"}]}}),
        json.dumps({"schema": 1, "packages": {"linux/amd64": [GOOD | {"more": 1}]}}),
    ],
)
def test_a_wrong_lock_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.lock.json").write_text(content)
    with pytest.raises(ImageFailed, match="lock") as caught:
        read_lock(tmp_path / "x.lock.json")
    assert "mlopt image lock" in caught.value.next


def test_a_platform_without_packages_is_named() -> None:
    with pytest.raises(ImageFailed, match="linux/riscv64"):
        read_lock(docker_folder() / "base.lock.json").of("linux/riscv64")


def test_apt_sources_of_both_forms_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# a comment\ndeb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm main\n"
        "deb-src http://b/debian bookworm main\n"
    )
    (tmp_path / "sources.list.d" / "x.sources").write_text(
        "Types: deb deb-src\n# http://no/\nURIs: http://c/debian\n http://d/debian\nSuites: bookworm bookworm-updates\n"
        "Signed-By:\n -----BEGIN PGP\n .\n\nTypes: deb\nURIs: http://off/\nSuites: x\nEnabled: no\n"
    )
    (tmp_path / "sources.list.d" / "y.list.disabled").write_text("deb http://no/ x main\n")
    assert archives(tmp_path) == (
        Archive("http://a/debian", ("bookworm",), "/k.gpg"),
        Archive("http://c/debian", ("bookworm", "bookworm-updates")),
        Archive("http://d/debian", ("bookworm", "bookworm-updates")),
    )
    assert archives(tmp_path / "absent") == ()


def stanza(name: str, version: str = "1", depends: str = "") -> dict[str, str]:
    text = f"Package: {name}\nVersion: {version}\nDepends: {depends}\nFilename: pool/{name}_{version}.deb\n"
    (fields,) = paragraphs(text + f"SHA256: {'0' * 64}\nSize: 5\n")
    return fields


def test_dependencies_are_followed_and_the_newest_taken() -> None:
    known = newest(
        [
            stanza("a", "1", "b (>= 1), c | d, gone | e"),
            stanza("a", "1+deb12u1", "b:any (>= 1) , x | f, nothing | e"),
            *(stanza(name) for name in "bcdef"),
            stanza("b", "1~rc1", "c"),
        ]
    )
    found = resolve(known, wanted=["a"], without=["f"])
    assert [(package.name, package.version) for package in found] == [("a", "1+deb12u1"), ("b", "1"), ("e", "1")]
    with pytest.raises(ImageFailed, match="no package nowhere"):
        resolve(known, wanted=["nowhere"], without=[])


def test_versions_sort_as_dpkg_sorts_them() -> None:
    rising = ["0", "1.0~~", "1.0~rc1-1", "1.0", "1.0-0.1", "1.0-1", "1.0-1+b1", "1.0-1+deb12u2", "1.0-1+deb12u14"]
    rising += ["1.0a-1", "1.0+dfsg-1", "1.0.1-1", "1.2-1", "1.10-1", "1:0.1"]
    for lower, higher in pairwise(rising):
        assert version_key(lower) < version_key(higher), (lower, higher)


@pytest.mark.skipif(not shutil.which("dpkg"), reason="dpkg is not here to compare with")
@given(st.lists(st.from_regex(r"\A[0-9][0-9a-z.+~]{0,6}(-[0-9a-z.+~]{1,4})?\Z"), min_size=2, max_size=2))
def test_versions_compare_as_dpkg_compares_them(pair: list[str]) -> None:
    compare = functools.partial(subprocess.run, check=False)
    lower = compare(["dpkg", "--compare-versions", pair[0], "lt", pair[1]]).returncode == 0
    assert lower == (version_key(pair[0]) < version_key(pair[1]))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("apt-get"), reason="apt-get is not here: the base lock cannot be renewed")
def test_another_architecture_resolves_through_this_machines_apt() -> None:
    wanted = read_wanted(docker_folder())
    try:
        found = {package.name: package for package in lock_debs(wanted, "linux/arm64")}
    except ImageFailed as error:
        pytest.skip(f"the archive cannot be read here: {error}")
    locked = {package.name: package for package in read_lock(docker_folder() / "base.lock.json").of("linux/arm64")}
    assert set(found) == set(locked)
    for name, package in found.items():
        assert version_key(package.version) >= version_key(locked[name].version), name
        assert package.filename.endswith(("_arm64.deb", "_all.deb"))
