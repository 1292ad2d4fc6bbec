"""Renew the locks of docker/: resolve the wanted packages for every platform with the machine's apt and pip.

apt checks the archive's signatures in a private folder, so that nothing on the machine is changed and any
architecture can be asked for.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mlopt.errors import ImageFailed, MissingDependency
from mlopt.image.apt import Archive, archives, paragraphs
from mlopt.image.debversion import version_key
from mlopt.image.fetch import wheel_tags
from mlopt.image.inputs import DEBIAN, PLATFORMS, WHEEL, Lock, Package, Recorded, read_native, read_wanted, write_lock

_KEYRING: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ALTERNATIVE: Final = re.compile(r"\s*([a-z0-9][a-z0-9+.-]*)")


def refresh_locks(
    folder: Path, *, debian_mirrors: tuple[str, ...] = (), index_url: str | None = None
) -> dict[str, Lock]:
    """Resolve python.toml and native.toml anew and write the locks beside them. Gives them by the names of their files.

    Raises `ImageFailed` when something does not resolve; then no file is touched.
    """
    wanted, native = read_wanted(folder), read_native(folder)
    base = Lock({platform: lock_debs(wanted, platform, mirrors=debian_mirrors) for platform in PLATFORMS})

    def wheels(names: tuple[str, ...]) -> Lock:
        return Lock({one: lock_wheels(names, one, python=wanted.python, index_url=index_url) for one in PLATFORMS})

    runtime, compiler = wheels(wanted.wheels), wheels(native.compiler.packages)
    locks = {"base.lock.json": base, "runtime.lock.json": runtime, "native.lock.json": compiler}
    for name, lock in locks.items():
        write_lock(lock, folder / name)
    return locks


def lock_debs(wanted: Recorded, platform: str, *, mirrors: tuple[str, ...] = ()) -> tuple[Package, ...]:
    """The newest version of the wanted packages and their dependencies, the security suite included."""
    sources = _sources(wanted.suite, mirrors)
    with tempfile.TemporaryDirectory(prefix="mlopt-apt-") as scratch:
        indices = _update(Path(scratch), sources, DEBIAN[platform])
        known = newest(fields for text in indices for fields in paragraphs(text))
    return resolve(known, wanted=wanted.debs, without=wanted.base.without)


def newest(stanzas: Iterable[Mapping[str, str]]) -> dict[str, Mapping[str, str]]:
    """The stanza of the highest version of each package."""
    known: dict[str, Mapping[str, str]] = {}
    for fields in stanzas:
        name = fields["package"]
        if name not in known or version_key(fields["version"]) > version_key(known[name]["version"]):
            known[name] = fields
    return known


def resolve(
    known: Mapping[str, Mapping[str, str]], *, wanted: Iterable[str], without: Iterable[str]
) -> tuple[Package, ...]:
    """The wanted packages and everything they depend on, less `without`, by name.

    Of alternatives the first that exists is taken. Raises `ImageFailed` for a package that does not exist.
    """
    dropped, chosen, open_names = set(without), dict[str, Package](), list(wanted)
    while open_names:
        name = open_names.pop()
        if name in chosen or name in dropped:
            continue
        if name not in known:
            raise ImageFailed(f"The Debian archive has no package {name}.", next="correct docker/python.toml")
        fields = known[name]
        chosen[name] = Package(name, fields["version"], fields["filename"], fields["sha256"], int(fields["size"]))
        for field in ("depends", "pre-depends"):
            open_names += _dependencies(fields.get(field, ""), known, dropped)
    return tuple(chosen[name] for name in sorted(chosen))


def lock_wheels(
    wanted: Iterable[str], platform: str, *, python: str, index_url: str | None = None
) -> tuple[Package, ...]:
    """The newest wheels of exactly the wanted distributions (no dependencies: all that is needed is wanted)."""
    machine = WHEEL[platform]
    tags = [f"x-manylinux_2_{minor}_{machine}" for minor in (17, 27, 28, 34, 35)] + [f"x-manylinux2014_{machine}"]
    with tempfile.TemporaryDirectory(prefix="mlopt-pip-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "--no-input", "--dest", scratch]
        command += wheel_tags(tags, python=python)
        command += ["--index-url", index_url] if index_url else []
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise ImageFailed(
                f"The wheels for {platform} do not resolve: " + " ".join(lines[:2])[:500],
                next="correct docker/python.toml or docker/native.toml, or name an index: --index-url URL",
            )
        return tuple(sorted((_wheel(path) for path in Path(scratch).glob("*.whl")), key=lambda package: package.name))


def _wheel(path: Path) -> Package:
    import hashlib

    name, version = path.name.split("-")[:2]
    data = path.read_bytes()
    return Package(name.replace("_", "-"), version, path.name, hashlib.sha256(data).hexdigest(), len(data))


def _dependencies(text: str, known: Mapping[str, object], dropped: set[str]) -> list[str]:
    names = []
    for clause in filter(None, (part.strip() for part in text.replace("\n", " ").split(","))):
        options = [match[1] for option in clause.split("|") if (match := _ALTERNATIVE.match(option))]
        if not dropped.intersection(options):
            names.append(next((option for option in options if option in known), options[0]))
    return names


def _sources(suite: str, mirrors: tuple[str, ...]) -> list[Archive]:
    """The archives of the suite, its updates and its security suite."""
    suites = (suite, f"{suite}-updates", f"{suite}-security")
    if mirrors:
        return [Archive(uri, (f"{suite}-security",) if "security" in uri else suites[:2], _KEYRING) for uri in mirrors]
    found = [
        Archive(archive.uri, kept, archive.signed_by)
        for archive in archives()
        if (kept := tuple(name for name in archive.suites if name in suites))
    ]
    have = {name for archive in found for name in archive.suites}
    for needed in (suites[0], suites[2]):
        if needed not in have:
            raise ImageFailed(
                f"This machine's apt sources do not have the suite {needed}.",
                next="name the archives, security included: --debian-mirror 'URL URL'",
            )
    return found


def _update(root: Path, sources: list[Archive], architecture: str) -> list[str]:
    """`apt-get update` in a private folder; the texts of the package indices."""
    lists = root / "lists"
    (lists / "partial").mkdir(parents=True)
    (root / "status").touch()
    (root / "parts").mkdir()
    lines = []
    for archive in sources:
        signed = f" signed-by={archive.signed_by}" if archive.signed_by else ""
        lines += [f"deb [arch={architecture}{signed}] {archive.uri} {suite} main" for suite in archive.suites]
    (root / "sources.list").write_text("\n".join(lines) + "\n")
    settings = {
        "Dir::State": root,
        "Dir::State::lists": lists,
        "Dir::State::status": root / "status",
        "Dir::Cache": root,
        "Dir::Etc::sourcelist": root / "sources.list",
        "Dir::Etc::sourceparts": root / "parts",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "root",
        "Acquire::GzipIndexes": "false",
        "Acquire::Languages": "none",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    try:
        done = subprocess.run(["apt-get", *options, "--error-on=any", "update"], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise MissingDependency("Renewing the base lock needs apt-get.", next="run it on Debian or Ubuntu") from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))]
        raise ImageFailed("The Debian archive could not be read: " + " ".join(reasons[:3])[:500])
    return [path.read_text(encoding="utf-8") for path in sorted(lists.glob("*_Packages"))]
