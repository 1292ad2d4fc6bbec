"""JetPack releases of NVIDIA's Jetson boards: which system, Python, CUDA and TensorRT come together in each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated

from mlopt import paths
from mlopt.errors import ConfigInvalid
from mlopt.schema import Key, read_toml


@dataclass(frozen=True, slots=True)
class JetPack:
    """`l4t` is its release of Jetson Linux, `also_l4t` others that hold the same; `dla`: whether its TensorRT builds
    for DLA on boards that have one. `container` is an image of NVIDIA's that holds it, without its registry.
    `unverified` names the facts that are more doubtful than the rest, which is read and not run."""

    jetpack: str
    ubuntu: str
    python: str
    cuda: str
    tensorrt: str
    compute_capabilities: tuple[str, ...]
    dla: bool
    l4t: str | None = None
    container: str | None = None
    also_l4t: tuple[str, ...] = ()
    unverified: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Table:
    releases: Annotated[tuple[JetPack, ...], Key("release")]
    sources: tuple[str, ...]


def releases() -> dict[str, JetPack]:
    """Every release by its name, oldest first."""
    return {one.jetpack: one for one in _table().releases}


def sources() -> tuple[str, ...]:
    """Where the table is from."""
    return _table().sources


def release(name: str, *, where: str = "") -> JetPack:
    """The release of that name. Raises `ConfigInvalid` with those that there are."""
    known = releases()
    if name not in known:
        raise ConfigInvalid(f"JetPack {name} is not known.", where=where, next=f"one of {', '.join(known)}")
    return known[name]


def release_of(l4t: str) -> JetPack | None:
    """The release that a board with this Jetson Linux runs, by the longest version that it begins with.

    >>> [found.jetpack for version in ("36.4.3", "35.6.1") if (found := release_of(version))]
    ['6.2', '5.1']
    """
    known = [(version, one) for one in releases().values() for version in (one.l4t, *one.also_l4t) if version]
    fitting = [(len(version), one) for version, one in known if f"{l4t}.".startswith(f"{version}.")]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


@cache
def _table() -> _Table:
    return read_toml(paths.folder("targets") / "nvidia" / "jetpack.toml", _Table)
