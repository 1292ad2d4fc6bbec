"""Get locked inputs: from the cache, else through the user's own apt sources and pip, checked by sha256."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlopt.errors import ImageFailed
from mlopt.image.apt import archives
from mlopt.image.disk import writing
from mlopt.image.inputs import Package
from mlopt.store import default_root

_REFRESH: Final = "if the packages are too old to be found, renew the lock: mlopt image lock"
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Inputs:
    """The cache of checked inputs below `root`/inputs (named by sha256), and where missing ones come from.

    `debian_mirrors`: base addresses to use in place of the machine's apt sources (`--debian-mirror`,
    `$MLOPT_DEBIAN_MIRROR`, separated by blanks). `index_url` is handed to pip; None leaves pip to its own
    configuration.
    """

    root: Path = field(default_factory=default_root)
    debian_mirrors: tuple[str, ...] = ()
    index_url: str | None = None

    def debs(self, packages: Iterable[Package]) -> list[Path]:
        """The .deb files, in order. Raises `ImageFailed` for one that cannot be had or is not what was locked."""
        with writing(self.root):
            return [self._cached(package) or self._fetch_deb(package) for package in packages]

    def wheels(self, packages: Iterable[Package], *, python: str) -> list[Path]:
        """The wheels, in order, for CPython `python` ("3.11"). Raises `ImageFailed` as `debs` does."""
        packages = list(packages)
        with writing(self.root):
            if missing := [package for package in packages if not self._cached(package)]:
                self._fetch_wheels(missing, python=python)
            return [self._kept(package) for package in packages]

    def _kept(self, package: Package) -> Path:
        path = self._cached(package)
        assert path is not None
        return path

    def _cached(self, package: Package) -> Path | None:
        """The input from the cache; a damaged one is thrown away, never used."""
        path = self._home(package)
        if not path.is_file():
            return None
        if _sha256(path) == package.sha256:
            return path
        path.unlink()
        return None

    def _home(self, package: Package) -> Path:
        return self.root / "inputs" / package.sha256 / Path(package.filename).name

    def _keep(self, package: Package, source: Path) -> Path:
        """Check a fetched file and move it into the cache. Raises `ImageFailed` when its digest differs."""
        if (found := _sha256(source)) != package.sha256:
            raise ImageFailed(
                f"{Path(package.filename).name} is not the file that was locked: its sha256 is {found[:16]}…, "
                f"the lock says {package.sha256[:16]}….",
                where=package.filename,
                next="find out why the archive gives another file; nothing of it was used",
            )
        home = self._home(package)
        home.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, home)
        return home

    def _fetch_deb(self, package: Package) -> Path:
        refusals: list[str] = []
        mirrors = self.debian_mirrors or _configured_mirrors()
        with self._scratch() as scratch:
            target = Path(scratch) / "package.deb"
            for mirror in mirrors:
                if reason := _download(f"{mirror.rstrip('/')}/{package.filename}", target):
                    refusals.append(reason)
                    continue
                return self._keep(package, target)
        raise ImageFailed(
            f"The Debian package {package.name} {package.version} could not be fetched: "
            + ("; ".join(dict.fromkeys(refusals)) or "this machine has no apt sources."),
            where=package.filename,
            next=_REFRESH if mirrors else "name an archive: --debian-mirror URL, or MLOPT_DEBIAN_MIRROR",
        )

    def _fetch_wheels(self, packages: list[Package], *, python: str) -> None:
        with self._scratch() as scratch:
            folder = Path(scratch)
            requirements = folder / "requirements.txt"
            requirements.write_text(
                "".join(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n" for package in packages)
            )
            self._pip(requirements, folder, packages, python=python)
            for package in packages:
                if not (folder / package.filename).is_file():
                    raise ImageFailed(
                        f"pip did not bring the locked wheel of {package.name}.", where=package.filename, next=_REFRESH
                    )
                self._keep(package, folder / package.filename)

    def _pip(self, requirements: Path, folder: Path, packages: list[Package], *, python: str) -> None:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += ["--disable-pip-version-check", "--no-input", "--only-binary=:all:", "--dest", str(folder)]
        command += wheel_tags([package.filename for package in packages], python=python)
        command += ["--index-url", self.index_url] if self.index_url else []
        done = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "No space left on device" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device")
        if "No module named pip" in done.stderr:
            raise ImageFailed(
                "Wheels are fetched with pip, and this Python has none.",
                where=sys.executable,
                next=f"{sys.executable} -m ensurepip",
            )
        if "DO NOT MATCH THE HASHES" in done.stderr:
            changed = [package for package in packages if f"{package.name}==" in done.stderr] or packages
            raise ImageFailed(
                f"{changed[0].filename} is not the file that was locked: the index gives another one.",
                where=changed[0].filename,
                next="find out why the index gives another file; nothing of it was used",
            )
        raise ImageFailed(
            f"The locked wheels could not be fetched: {_reason(done.stderr)}",
            where=", ".join(package.filename for package in packages[:3]),
            next=_REFRESH,
        )

    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        parent = self.root / "inputs"
        parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".fetch-", dir=parent)


def inputs_from_environment(*, root: Path | None = None, debian_mirror: str = "", index_url: str = "") -> Inputs:
    """Inputs as the command line and the environment say (flags win)."""
    mirrors = debian_mirror or os.environ.get("MLOPT_DEBIAN_MIRROR", "")
    return Inputs(root or default_root(), tuple(mirrors.split()), index_url or None)


def wheel_tags(filenames: Iterable[str], *, python: str) -> list[str]:
    """The options by which pip takes wheels for another platform than its own.

    >>> wheel_tags(["a-1-cp311-cp311-manylinux_2_28_x86_64.whl"], python="3.11")[:4]
    ['--python-version', '3.11', '--implementation', 'cp']
    """
    platforms = {tag for name in filenames for tag in name.removesuffix(".whl").rsplit("-", 1)[-1].split(".")}
    abi = "cp" + python.replace(".", "")
    options = ["--python-version", python, "--implementation", "cp", "--abi", abi, "--abi", "abi3", "--abi", "none"]
    for platform in sorted(platforms | {"any"}):
        options += ["--platform", platform]
    return options


def _reason(said: str) -> str:
    """Pip's own words, less the list of every version that there is."""
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line and not line.startswith("WARNING")]
    final = [line for line in lines if line.startswith("No matching distribution")]
    return " ".join(final or lines[:3])[:500]


def _configured_mirrors() -> tuple[str, ...]:
    web = ("http://", "https://", "file:/")
    return tuple(dict.fromkeys(archive.uri for archive in archives() if archive.uri.startswith(web)))


def _download(url: str, target: Path) -> str:
    """Fetch a file; the reason when it could not be, else an empty string. Proxies come from the environment."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=_SECONDS) as reply, target.open("wb") as stream:  # noqa: S310
            shutil.copyfileobj(reply, stream)
    except urllib.error.HTTPError as error:
        return f"the archive answered {error.code} {error.reason}"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        return f"no answer: {getattr(error, 'reason', error)}"
    return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
