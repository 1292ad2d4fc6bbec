"""Scanning: versions in their own order, sources and releases kept apart, nothing said that was not read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import walks
from click.testing import CliRunner, Result

from mlopt.commands.image import command
from mlopt.errors import Misused
from mlopt.supply.advisories import Advisory, read_advisories
from mlopt.supply.packages import SUITES
from mlopt.supply.scan import packages_of

HEAD: dict[str, Any] = {"modified": "2026-11-01T00:00:00Z", "summary": "Somebody can\n do something."}


def osv(name: str, ecosystem: str, package: str, *events: dict[str, str], **more: Any) -> dict[str, Any]:
    affected = {
        "package": {"ecosystem": ecosystem, "name": package},
        "ranges": [{"type": "ECOSYSTEM", "events": events}],
    }
    return {"id": name, **HEAD, "affected": [affected], **more}


def scanned(bundle: Path, path: Path, content: Any) -> Result:
    path.write_text(json.dumps(content))
    return CliRunner().invoke(
        command, ["scan", str(bundle), "--advisories", str(path)], catch_exceptions=False, env={"COLUMNS": "100"}
    )


def version_of(bundle: Path, package: str) -> str:
    return next(one.version for one in packages_of(bundle / "image") if one.package == package)


def made(ecosystem: str, *events: tuple[str, str], versions: tuple[str, ...] = ()) -> Advisory:
    return Advisory("X", ecosystem, "p", "", frozenset(versions), (events,))


@pytest.mark.parametrize(
    ("ecosystem", "events", "version", "affected"),
    [
        ("Debian:12", (("introduced", "0"), ("fixed", "3.0.22-1~deb12u3")), "3.0.22-1~deb12u2", True),
        ("Debian:12", (("introduced", "0"), ("fixed", "3.0.22-1~deb12u2")), "3.0.22-1~deb12u2", False),
        ("Debian:12", (("introduced", "0"), ("fixed", "1.2.14")), "1:1.2.13.dfsg-1", False),  # the epoch wins
        ("Debian:12", (("introduced", "0"), ("fixed", "2.36-9+deb12u9")), "2.36-9+deb12u14", False),  # 14 is after 9
        ("Debian:12", (("introduced", "0"), ("fixed", "2.36-9+deb12u15")), "2.36-9+deb12u14", True),
        ("PyPI", (("introduced", "0"), ("fixed", "1.10")), "1.9", True),  # as numbers, not as text
        ("PyPI", (("introduced", "0"), ("fixed", "2.0")), "2.0rc1", True),
        ("PyPI", (("introduced", "0"), ("fixed", "2.0")), "2.0.post1", False),
        ("PyPI", (("introduced", "1.0"), ("last_affected", "1.5")), "1.5", True),
        ("PyPI", (("introduced", "1.0"), ("last_affected", "1.5")), "1.6", False),
        ("PyPI", (("introduced", "1.0"), ("fixed", "1.2"), ("introduced", "2.0")), "1.5", False),
        ("PyPI", (("introduced", "1.0"), ("fixed", "1.2"), ("introduced", "2.0")), "2.0", True),
        ("PyPI", (("introduced", "1.0"),), "0.9", False),
    ],
)
def test_ranges(ecosystem: str, events: tuple[tuple[str, str], ...], version: str, affected: bool) -> None:
    assert made(ecosystem, *events).affects(version) is affected


def test_the_next_fixed_version_is_named() -> None:
    advisory = made("PyPI", ("introduced", "0"), ("fixed", "1.2"), ("introduced", "2.0"), ("fixed", "2.10"))
    assert (advisory.fixed("1.0"), advisory.fixed("2.3"), advisory.fixed("2.10")) == ("1.2", "2.10", "")
    assert made("PyPI", versions=("1.0",)).affects("1.0")


def test_it_needs_a_file(compiled: Path) -> None:
    with pytest.raises(Misused, match="needs advisories"):
        CliRunner().invoke(command, ["scan", str(compiled)], catch_exceptions=False)


def test_what_is_found_ends_with_1_and_names_the_way_out(compiled: Path, tmp_path: Path) -> None:
    here = version_of(compiled, "openssl")
    found = scanned(
        compiled,
        tmp_path / "osv.json",
        [
            osv(
                "DEBIAN-CVE-2026-1",
                "Debian:12",
                "openssl",
                {"introduced": "0"},
                {"fixed": "99"},
                upstream=["CVE-2026-1"],
            ),
            osv("CVE-2026-2", "Debian:12", "openssl", {"introduced": "0"}, {"fixed": here}),
            osv("CVE-2026-3", "Debian:11", "openssl", {"introduced": "0"}),  # another release
            osv("CVE-2026-4", "Debian:12", "libssl3", {"introduced": "0"}),  # no source package's name
            osv("CVE-2026-5", "Debian:12", "openssl", {"introduced": "0"}, withdrawn="2026-11-02T00:00:00Z"),
            osv("PYSEC-2026-6", "PyPI", "Typing_Extensions", {"introduced": "0"}),
            osv("GHSA-x", "npm", "openssl", {"introduced": "0"}),
        ],
    )
    assert found.exit_code == 1
    lines = found.output.splitlines()
    assert lines[0] == f"CVE-2026-1 (DEBIAN-CVE-2026-1)  libssl3 {here} (of openssl {here}): fixed in 99"
    assert lines[1] == "    Somebody can do something."
    assert lines[2].startswith("PYSEC-2026-6  typing-extensions ")
    assert lines[2].endswith("no fix is known")
    assert lines[4].startswith("2 findings in 2 of 2")
    assert lines[4].endswith("advisories read: 3 of Debian:12 and 1 of PyPI")
    asked = ("image", "scan", compiled, "--advisories", tmp_path / "osv.json")
    assert walks.mlopt(*asked, cwd=tmp_path).returncode == 1  # of the program too


def test_none_found_ends_with_0_and_says_what_was_not_checked(compiled: Path, tmp_path: Path) -> None:
    found = scanned(
        compiled, tmp_path / "one.json", osv("CVE-1", "PyPI", "numpy", {"introduced": "0"}, {"fixed": "0.1"})
    )
    assert found.exit_code == 0
    assert "Nothing was checked of Debian:12" in found.output
    assert "Nothing was checked of PyPI" not in found.output


def test_the_debian_tracker(compiled: Path, tmp_path: Path) -> None:
    here = version_of(compiled, "glibc")

    def of(status: str, suite: str = "bookworm", **facts: str) -> dict[str, Any]:
        return {"description": "d", "releases": {suite: {"status": status, **facts}}}

    cves = {
        "CVE-1": of("open", urgency="not yet assigned"),
        "CVE-2": of("open", urgency="unimportant"),
        "CVE-3": of("resolved", fixed_version="0", urgency="low"),
        "CVE-4": of("resolved", fixed_version=here, urgency="low"),
        "CVE-5": of("resolved", fixed_version=f"{here}.1", urgency="low"),
        "CVE-6": of("open", suite="trixie", urgency="high"),
        "CVE-7": of("undetermined"),
    }
    found = scanned(compiled, tmp_path / "tracker.json", {"glibc": cves, "no-such-source": cves})
    assert found.exit_code == 1
    assert [line.split()[0] for line in found.output.splitlines() if line.startswith("CVE-")] == ["CVE-1", "CVE-5"]


def test_a_folder_and_a_zip_say_what_a_list_says(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("CVE-1", "CVE-2"):
            text = json.dumps(osv(name, "PyPI", "numpy", {"introduced": "0"}))
            (tmp_path / "folder" / f"{name}.json").write_text(text)
            archive.writestr(f"{name}.json", text)
    folder, zipped = (list(read_advisories(tmp_path / name, suites=SUITES)) for name in ("folder", "all.zip"))
    assert folder == zipped
    assert [one.name for one in folder] == ["CVE-1", "CVE-2"]


@pytest.mark.parametrize(
    "content", ["not json", "[1]", '{"id": "x", "modified": "y", "affected": [{"package": {"name": "x"}}]}', "{}x"]
)
def test_what_is_no_list_of_advisories(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(Misused, match="no file of advisories"):
        list(read_advisories(tmp_path / "x.json", suites=SUITES))


def test_no_file_and_an_empty_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(Misused):
            list(read_advisories(path, suites=SUITES))
