"""What advisories say of the packages in an image, by its own SBOMs; nothing is fetched, nothing is guessed."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mlopt.errors import ImageFailed
from mlopt.supply.advisories import Advisory, plain
from mlopt.supply.attach import documents


@dataclass(frozen=True, slots=True)
class Held:
    """A package of an image as advisories name it: of Debian by source package and its version. `label` is its own name
    and version, `platforms` where it is."""

    ecosystem: str
    package: str
    version: str
    label: str
    platforms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    held: Held
    advisory: Advisory


@dataclass(frozen=True, slots=True)
class Scan:
    """`read` counts advisories by ecosystem: of one with none, nothing was checked. `unordered` were left out, because
    a version in them follows no rule."""

    held: tuple[Held, ...]
    findings: tuple[Finding, ...]
    read: dict[str, int] = field(default_factory=dict)
    unordered: tuple[str, ...] = ()


def scan(layout: Path, advisories: Iterable[Advisory]) -> Scan:
    """Every advisory about a package of the image. Raises `ImageFailed` when the image has no SBOM."""
    held = packages_of(layout)
    by_name: dict[tuple[str, str], list[Held]] = {}
    for one in held:
        by_name.setdefault((one.ecosystem, one.package), []).append(one)
    ecosystems = sorted({one.ecosystem for one in held})
    read, findings, unordered = dict.fromkeys(ecosystems, 0), set[tuple[str, str, Held, Advisory]](), set[str]()
    for advisory in advisories:
        for ecosystem in ecosystems:
            if advisory.ecosystem not in (ecosystem, ecosystem.partition(":")[0]):
                continue
            read[ecosystem] += 1
            for one in by_name.get((ecosystem, advisory.package), ()):
                try:
                    if advisory.affects(one.version):
                        findings.add((one.label, advisory.name, one, advisory))
                except ValueError:
                    unordered.add(f"{advisory.name} about {advisory.package}")
    ordered = sorted(findings, key=lambda found: found[:2])
    return Scan(held, tuple(Finding(one, advisory) for _, _, one, advisory in ordered), read, tuple(sorted(unordered)))


def told(scan: Scan) -> Iterator[str]:
    """A line for each finding and what it means, then what was looked at."""
    for finding in scan.findings:
        held, advisory = finding.held, finding.advisory
        fixed = advisory.fixed(held.version)
        source = "" if held.label == f"{held.package} {held.version}" else f" (of {held.package} {held.version})"
        yield f"{advisory.name}  {held.label}{source}: {f'fixed in {fixed}' if fixed else 'no fix is known'}"
        if advisory.summary:
            yield f"    {textwrap.shorten(advisory.summary, 92, placeholder=' …')}"
    for name in scan.unordered:
        yield f"left out: {name}, a version of it follows no rule"
    found, packages = len(scan.findings), {finding.held.label for finding in scan.findings}
    read = " and ".join(f"{count} of {ecosystem}" for ecosystem, count in scan.read.items())
    yield (
        f"{found} finding{'' if found == 1 else 's'} in {len(packages)} of "
        f"{len({one.label for one in scan.held})} packages; advisories read: {read}"
    )
    for ecosystem, count in scan.read.items():
        if not count:
            yield f"! Nothing was checked of {ecosystem}: no advisory is about it."


def packages_of(layout: Path) -> tuple[Held, ...]:
    """What the CycloneDX SBOMs of all platforms list, each once."""
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for one, document in documents(layout, "cyclonedx"):
        for component in document["components"]:
            if component["type"] == "library":
                found.setdefault(_known_as(component), []).append(one.annotations["io.mlopt.platform"])
    if not found:
        raise ImageFailed("The image has no SBOM.", where=str(layout), next="compile again: mlopt compile attaches it")
    return tuple(Held(*known, platforms=tuple(sorted(on))) for known, on in sorted(found.items()))


def _known_as(component: dict[str, Any]) -> tuple[str, str, str, str]:
    name, version = component["name"], component["version"]
    path, _, query = component["purl"].partition("?")
    if path.startswith("pkg:pypi/"):
        return "PyPI", plain(name), version, f"{name} {version}"
    if path.startswith("pkg:github/"):
        return "OSS-Fuzz", name, version, f"{name} {version}"
    qualifiers = dict(pair.split("=", 1) for pair in query.split("&"))
    source, _, source_version = unquote(qualifiers.get("upstream", name)).partition("@")
    release = qualifiers["distro"].removeprefix("debian-")
    return f"Debian:{release}", source, source_version or version, f"{name} {version}"
