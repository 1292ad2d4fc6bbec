"""What is known of the packages in an image: names, versions and digests from the locks, the rest from the files."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import quote

from mlopt.artifact import digest_of
from mlopt.errors import ImageFailed
from mlopt.image.disk import writing
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import DEBIAN, Package, Vendored, docker_folder
from mlopt.image.unpack import deb_control, unpack_deb
from mlopt.supply import licences

if TYPE_CHECKING:
    from mlopt.image.base import Base

# Of a package of Debian 12; the distribution's release is a part of a package's name in advisories.
SUITES: Final[Mapping[str, str]] = {"bookworm": "12", "trixie": "13"}
# Raise it whenever the same file would give other facts.
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Component:
    """One package of an image, or the image that it stands on. `source` and `source_version` are Debian's own name of
    what it was built from, which advisories use; of the others they are empty. What is of kind `source` was compiled
    into the server."""

    kind: Literal["deb", "oci", "pypi", "source"]
    name: str
    version: str
    sha256: str
    filename: str
    purl: str
    licence: str
    source: str = ""
    source_version: str = ""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What only the package's file says. `see` names the package that carries the licence in its place."""

    licence: str
    source: str = ""
    source_version: str = ""
    see: str = ""


def debs(packages: Iterable[Package], *, suite: str, platform: str, inputs: Inputs) -> tuple[Component, ...]:
    """Debian packages. Raises `ImageFailed` for a file that is neither in the cache nor to be had."""
    packages = tuple(packages)
    facts = {package.name: _facts(package, inputs) for package in packages}
    return tuple(_deb(package, facts, suite, platform) for package in packages)


def wheels(packages: Iterable[Package], *, python: str, inputs: Inputs) -> tuple[Component, ...]:
    """Distributions of PyPI. Raises `ImageFailed` for a file that is neither in the cache nor to be had."""
    return tuple(
        Component(
            "pypi",
            package.name,
            package.version,
            package.sha256,
            package.filename,
            pypi_purl(package.name, package.version),
            _facts(package, inputs, python=python).licence,
        )
        for package in packages
    )


def image_below(base: Base, platform: str) -> Component:
    """The base of the user's choice, as one thing: what is in it, its maker's own SBOM says."""
    digest = str(base.manifests[platform]["digest"]).removeprefix("sha256:")
    where = base.annotations.get("org.opencontainers.image.base.name", "").partition("@")[0]
    name = where.rpartition("/")[2].partition(":")[0] or "base"
    purl = f"pkg:oci/{quote(name)}@sha256:{digest}?arch={platform.split('/')[1]}"
    if where:
        purl += f"&repository_url={quote(where, safe='/:')}"
    return Component("oci", name, f"sha256:{digest}", digest, name, purl, licences.NOASSERTION)


def vendored(sources: Iterable[Vendored]) -> tuple[Component, ...]:
    """What others wrote and the native server was built with."""
    folder = docker_folder() / "native" / "vendor"
    return tuple(
        Component("source", one.name, one.version, digest_of(folder / one.file), one.file, one.purl, one.licence)
        for one in sources
    )


def pypi_purl(name: str, version: str) -> str:
    """A package URL.

    >>> pypi_purl("typing_extensions", "4.16.0")
    'pkg:pypi/typing-extensions@4.16.0'
    """
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe=':')}"


def deb_purl(name: str, version: str, *, architecture: str, suite: str, source: str = "") -> str:
    """A package URL; `source` becomes `upstream`, by which scanners find advisories.

    >>> deb_purl("libssl3", "3.0.22-1~deb12u2", architecture="amd64", suite="bookworm", source="openssl")
    'pkg:deb/debian/libssl3@3.0.22-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl'
    """
    upstream = f"&upstream={quote(source, safe='')}" if source else ""
    qualifiers = f"arch={architecture}&distro=debian-{SUITES.get(suite, suite)}{upstream}"
    return f"pkg:deb/debian/{quote(name, safe='')}@{quote(version, safe=':')}?{qualifiers}"


def oci_purl(name: str, version: str, *, platform: str, digest: str) -> str:
    """A package URL of an image.

    >>> oci_purl("net", "1", platform="linux/arm64", digest="ab")
    'pkg:oci/net@sha256:ab?arch=arm64&tag=1'
    """
    return f"pkg:oci/{quote(name)}@sha256:{digest}?arch={platform.split('/')[1]}&tag={quote(version, safe='')}"


def _deb(package: Package, facts: Mapping[str, _Facts], suite: str, platform: str) -> Component:
    own = facts[package.name]
    shared = facts.get(own.see, own)
    architecture = "all" if package.filename.endswith("_all.deb") else DEBIAN[platform]
    source = own.source if own.source_version == package.version else f"{own.source}@{own.source_version}"
    return Component(
        "deb",
        package.name,
        package.version,
        package.sha256,
        package.filename,
        deb_purl(package.name, package.version, architecture=architecture, suite=suite, source=source),
        shared.licence,
        own.source,
        own.source_version,
    )


def _facts(package: Package, inputs: Inputs, *, python: str = "") -> _Facts:
    """From what was kept by the file's digest, else from the file."""
    home = inputs.root / "facts" / f"{package.sha256}.json"
    try:
        kept = json.loads(home.read_bytes())
        if kept.pop("version") == _VERSION:
            return _Facts(**kept)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    if package.filename.endswith(".deb"):
        facts = _read_deb(inputs.debs([package])[0], package.name)
    else:
        facts = _read_wheel(inputs.wheels([package], python=python)[0])
    _keep(home, {"version": _VERSION, **asdict(facts)})
    return facts


def _read_deb(path: Path, name: str) -> _Facts:
    control = deb_control(path)
    source, _, version = control.get("source", name).partition(" ")
    version = version.strip().strip("()") or control["version"]
    tree = unpack_deb(path)
    documents = tree.get(f"usr/share/doc/{name}")
    if documents and documents.kind == "link":
        return _Facts(licences.NOASSERTION, source, version, see=Path(documents.target).name)
    text = tree.get(f"usr/share/doc/{name}/copyright")
    if text is None or not isinstance(text.content, bytes):
        return _Facts(licences.NOASSERTION, source, version)
    return _Facts(licences.of_debian(text.content.decode(errors="replace")), source, version)


def _read_wheel(path: Path) -> _Facts:
    try:
        with zipfile.ZipFile(path) as wheel:
            return _Facts(licences.of_wheel(wheel.read(next(_metadata(wheel))).decode()))
    except (ValueError, OSError, StopIteration, zipfile.BadZipFile) as error:
        raise ImageFailed(f"The wheel {path.name} has no readable METADATA: {error!r}", where=str(path)) from error


def _metadata(wheel: zipfile.ZipFile) -> Iterator[str]:
    for name in wheel.namelist():
        folder, _, file = name.partition("/")
        if folder.endswith(".dist-info") and file == "METADATA":
            yield name


def _keep(home: Path, facts: Mapping[str, object]) -> None:
    with writing(home.parent):
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=home.parent, prefix=".", delete=False) as stream:
            json.dump(facts, stream)
        os.replace(stream.name, home)
