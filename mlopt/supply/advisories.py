"""Advisories that the user brings: OSV's JSON (one, a list, a folder, a zip) or the Debian security tracker's."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import Misused
from mlopt.image.debversion import version_key

_NEXT: Final = "download OSV's all.zip for Debian and for PyPI, or the Debian security tracker's JSON"


@dataclass(frozen=True, slots=True)
class Advisory:
    """What is known of one package of an `ecosystem` ("Debian:12", "Debian" for every release, "PyPI").

    `versions` are affected by name; `ranges` are lists of events, as OSV has them. Of Debian `package` is the source's.
    """

    name: str
    ecosystem: str
    package: str
    summary: str
    versions: frozenset[str]
    ranges: tuple[tuple[tuple[str, str], ...], ...]

    def affects(self, version: str) -> bool:
        """Whether a version is affected. Raises `ValueError` for a version that cannot be ordered."""
        key = _ordered(self.ecosystem)
        place = key(version)
        return version in self.versions or any(_inside(place, events, key) for events in self.ranges)

    def fixed(self, version: str) -> str:
        """The lowest version above this one in which it is fixed; empty where none is known."""
        key = _ordered(self.ecosystem)
        above = {at for events in self.ranges for kind, at in events if kind == "fixed" and key(at) > key(version)}
        return min(above, key=key, default="")


def read_advisories(path: Path, *, suites: Mapping[str, str]) -> Iterator[Advisory]:
    """Every advisory of a file or folder, one by one; `suites` gives the number of a release of Debian by its name.

    Raises `Misused` for what is neither.
    """
    for where, data in _documents(path):
        try:
            yield from _advisories(json.loads(data), suites)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise Misused(f"This is no file of advisories: {error!r}", where=where, next=_NEXT) from error


def plain(name: str) -> str:
    """The one name of a distribution on PyPI (PEP 503).

    >>> plain("Typing_Extensions")
    'typing-extensions'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def _documents(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if path.is_dir():
            found = sorted(path.rglob("*.json"))
            if not found:
                raise Misused("There is no JSON in this folder.", where=str(path), next=_NEXT)
            for file in found:
                yield str(file), file.read_bytes()
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in sorted(archive.namelist()):
                    if name.endswith(".json"):
                        yield f"{path}: {name}", archive.read(name)
        else:
            yield str(path), path.read_bytes()
    except (OSError, zipfile.BadZipFile) as error:
        raise Misused(f"The advisories cannot be read: {error}", where=str(path), next=_NEXT) from error


def _advisories(document: Any, suites: Mapping[str, str]) -> Iterator[Advisory]:
    if isinstance(document, list):
        for one in document:
            yield from _osv(one)
    elif "id" in document and "modified" in document:
        yield from _osv(document)
    else:
        yield from _tracker(document, suites)


def _osv(document: Mapping[str, Any]) -> Iterator[Advisory]:
    """https://ossf.github.io/osv-schema: what was withdrawn is none, and ranges of commits say nothing of packages."""
    if document.get("withdrawn"):
        return
    aliases = [
        name for name in (*document.get("aliases", ()), *document.get("upstream", ())) if name.startswith("CVE-")
    ]
    name = document["id"] if document["id"].startswith("CVE-") or not aliases else f"{aliases[0]} ({document['id']})"
    summary = document.get("summary") or document.get("details", "")
    for affected in document.get("affected", ()):
        package = affected.get("package")
        if not package or package["ecosystem"].partition(":")[0] not in ("Debian", "PyPI"):
            continue
        yield Advisory(
            name,
            package["ecosystem"],
            plain(package["name"]) if package["ecosystem"] == "PyPI" else package["name"],
            _line(summary),
            frozenset(affected.get("versions", ())),
            tuple(
                tuple((kind, at) for event in one["events"] for kind, at in event.items())
                for one in affected.get("ranges", ())
                if one["type"] != "GIT"
            ),
        )


def _tracker(document: Mapping[str, Any], suites: Mapping[str, str]) -> Iterator[Advisory]:
    """The tracker lists every release by its name. What Debian calls unimportant has no effect on security."""
    for package, found in document.items():
        for name, facts in found.items():
            for suite, release in facts["releases"].items():
                status, fixed = release["status"], release.get("fixed_version", "")
                if suite not in suites or release.get("urgency") == "unimportant" or fixed == "0":
                    continue
                if status not in ("open", "resolved") or (status == "resolved" and not fixed):
                    continue
                events = (("introduced", "0"), *((("fixed", fixed),) if status == "resolved" else ()))
                summary = _line(facts.get("description", ""))
                yield Advisory(name, f"Debian:{suites[suite]}", package, summary, frozenset(), (events,))


def _inside(place: Any, events: tuple[tuple[str, str], ...], key: Any) -> bool:
    """OSV's rule: events in the order of versions, the last one at or below the version decides."""
    affected = False
    for kind, at in sorted(events, key=lambda event: (event[1] != "0", key(event[1]) if event[1] != "0" else key("0"))):
        if kind == "introduced" and (at == "0" or place >= key(at)):
            affected = True
        elif (kind == "fixed" and place >= key(at)) or (kind == "last_affected" and place > key(at)):
            affected = False
    return affected


def _ordered(ecosystem: str) -> Any:
    if ecosystem == "PyPI":
        from packaging.version import Version

        return Version
    return version_key


def _line(text: str) -> str:
    return " ".join(text.split())
