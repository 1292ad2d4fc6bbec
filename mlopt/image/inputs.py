"""What images are made from: the wanted packages (docker/python.toml, docker/native.toml), and the locks."""

from __future__ import annotations

import json
import platform as machine
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed
from mlopt.image.elf import Rebinding

PLATFORMS: Final = ("linux/amd64", "linux/arm64")
DEBIAN: Final[Mapping[str, str]] = {"linux/amd64": "amd64", "linux/arm64": "arm64"}
WHEEL: Final[Mapping[str, str]] = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}

_MACHINES: Final[Mapping[str, str]] = {
    "x86_64": "linux/amd64",
    "amd64": "linux/amd64",
    "aarch64": "linux/arm64",
    "arm64": "linux/arm64",
}
_SCHEMA: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_REFRESH: Final = "mlopt image lock"


@dataclass(frozen=True, slots=True)
class Package:
    """One pinned input. `filename` is a path in a Debian archive's pool, or the name of a wheel; never a host."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Lock:
    """The pinned inputs of one layer, by platform."""

    packages: Mapping[str, tuple[Package, ...]]

    def of(self, platform: str) -> tuple[Package, ...]:
        """The packages of a platform. Raises `ImageFailed` when the lock has none."""
        if platform not in self.packages:
            raise ImageFailed(
                f"There are no locked packages for {platform}.",
                next=f"choose among {', '.join(self.packages)}, or add it and run: {_REFRESH}",
            )
        return self.packages[platform]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One table of docker/python.toml. `sources` stay beside their bytecode; `libraries` are Debian packages whose
    libraries lie in a folder beside the wheels' own; `rebound` says what libraries ask for instead of what they were
    built with; those that match a glob of `stripped` lose their symbols for debuggers."""

    packages: tuple[str, ...]
    without: tuple[str, ...]
    left_out: tuple[str, ...]
    sources: tuple[str, ...] = ()
    libraries: Mapping[str, str] = field(default_factory=dict)
    rebound: tuple[Rebinding, ...] = ()
    stripped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recorded:
    """Everything docker/ says about the Python image. `runtime` is what every image holds beside one of `runtimes`,
    `extras` what one may hold too."""

    suite: str
    python: str
    base: Wanted
    runtime: Wanted
    runtimes: Mapping[str, Wanted]
    extras: Mapping[str, Wanted]

    @property
    def debs(self) -> tuple[str, ...]:
        """The Debian packages to lock, with all that they depend on."""
        return (
            *self.base.packages,
            *self.runtime.libraries,
            *(n for one in self.runtimes.values() for n in one.libraries),
        )

    @property
    def wheels(self) -> tuple[str, ...]:
        """What is locked: the distributions of every image, whatever it runs."""
        beside = (*self.runtimes.values(), *self.extras.values())
        return tuple(sorted({*self.runtime.packages, *(name for one in beside for name in one.packages)}))

    def running(self, runtime: str, extras: tuple[str, ...] = ()) -> Wanted:
        """What the image of a model in `runtime` holds, with these extras. Raises `ImageFailed` where there is none."""
        if runtime not in self.runtimes:
            raise ImageFailed(
                f"No image holds the runtime {runtime}: there are {', '.join(self.runtimes)}.",
                next="serve it yourself, and compile with --no-image",
            )
        parts = (self.runtime, self.runtimes[runtime], *(self.extras[name] for name in extras))
        return Wanted(
            packages=tuple(name for part in parts for name in part.packages),
            without=tuple(name for part in parts for name in part.without),
            left_out=tuple(pattern for part in parts for pattern in part.left_out),
            sources=tuple(path for part in parts for path in part.sources),
            libraries={name: value for part in parts for name, value in part.libraries.items()},
            rebound=tuple(one for part in parts for one in part.rebound),
            stripped=tuple(pattern for part in parts for pattern in part.stripped),
        )

    def distribution(self, runtime: str) -> str:
        """What PyPI calls a runtime that there is an image of."""
        return self.runtimes[runtime].packages[0]


@dataclass(frozen=True, slots=True)
class Vendored:
    """What somebody else wrote and the native server is built with; `file` is its source in docker/native/vendor/."""

    name: str
    version: str
    licence: str
    purl: str
    file: str


@dataclass(frozen=True, slots=True)
class Native:
    """What docker/native.toml says of the image whose server is no Python. `base` and `runtime` name packages that are
    locked for the Python image, `compiler` those that build the server: locked by the machine that builds."""

    compiler: Wanted
    base: Wanted
    runtime: Wanted
    vendored: tuple[Vendored, ...]


def host_platform() -> str:
    """This machine's platform: `linux/amd64`. Architectures that images know by another name are translated."""
    name = machine.machine().lower()
    return _MACHINES.get(name, f"linux/{name}")


def docker_folder() -> Path:
    """The folder of declarations: inside an installed mlopt, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    shipped = package / "_data" / "docker"
    return shipped if shipped.is_dir() else package.parent / "docker"


def read_wanted(folder: Path) -> Recorded:
    """Read python.toml. Raises `ImageFailed` when it is not what it must be."""
    path = folder / "python.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        base, runtime = table["base"], table["runtime"]
        runtimes = {name: _wanted(own) for name, own in table["runtimes"].items()}
        extras = {name: _wanted(own) for name, own in table.get("extras", {}).items()}
        return Recorded(base["suite"], runtime["python"], _wanted(base), _wanted(runtime), runtimes, extras)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ImageFailed(f"What the image is made from cannot be read: {error!r}", where=str(path)) from error


def read_native(folder: Path) -> Native:
    """Read native.toml. Raises `ImageFailed` when it is not what it must be."""
    path = folder / "native.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        vendored = tuple(Vendored(name, **said) for name, said in sorted(table["vendor"].items()))
        return Native(_wanted(table["compiler"]), _wanted(table["base"]), _wanted(table["runtime"]), vendored)
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ImageFailed(f"What the native image is made from cannot be read: {error!r}", where=str(path)) from error


def read_lock(path: Path) -> Lock:
    """Read a lock file. Raises `ImageFailed` that names the entry when it is damaged."""
    try:
        table = json.loads(path.read_bytes())
        if table["schema"] != _SCHEMA:
            raise ValueError(f"schema is {table['schema']!r}, not {_SCHEMA}")
        return Lock({name: tuple(_package(entry) for entry in rows) for name, rows in table["packages"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ImageFailed(
            f"The lock file cannot be used: {error}", where=str(path), next=f"write it anew: {_REFRESH}"
        ) from error


def write_lock(lock: Lock, path: Path) -> None:
    """Write a lock file: the same bytes for the same lock."""
    packages = {platform: [asdict(package) for package in rows] for platform, rows in sorted(lock.packages.items())}
    text = json.dumps({"schema": _SCHEMA, "packages": packages}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")


def _wanted(table: Mapping[str, Any]) -> Wanted:
    return Wanted(
        packages=tuple(table["packages"]),
        without=tuple(table.get("without", ())),
        left_out=tuple(table.get("left-out", ())),
        sources=tuple(table.get("sources", ())),
        libraries=dict(table.get("libraries", {})),
        rebound=tuple(Rebinding(**{**rule, "absent": tuple(rule["absent"])}) for rule in table.get("rebound", ())),
        stripped=tuple(table.get("stripped", ())),
    )


def _package(entry: Mapping[str, Any]) -> Package:
    package = Package(**entry)
    if not (isinstance(package.sha256, str) and _SHA256.fullmatch(package.sha256)):
        raise ValueError(f"the sha256 of {package.name} is {package.sha256!r}")
    if not (type(package.size) is int and package.size > 0):
        raise ValueError(f"the size of {package.name} is {package.size!r}")
    if package.filename.startswith("/") or ".." in package.filename or ":" in package.filename:
        raise ValueError(f"the file of {package.name} is {package.filename!r}; it must be a relative path")
    return package
