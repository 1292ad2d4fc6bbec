"""The verb: one transformation, artifact to artifact. A step is a frozen dataclass; its fields are its options."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from mlopt.artifact import Artifact, Digest, Format
from mlopt.interpreter import OtherPython

StepState = Literal["started", "done", "cached"]


@runtime_checkable
class Step(Protocol):
    """What every step offers. `docs/writing-a-step.md` shows one from end to end.

    `version` goes up when the same options would give other bytes; `requires` names the
    distributions whose versions decide the result, so that an upgrade is never served from the store.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    accepts: ClassVar[frozenset[Format]]
    produces: ClassVar[Format]
    requires: ClassVar[tuple[str, ...]]

    def run(self, source: Artifact, into: Path) -> None:
        """Read `source`, write the result below the empty folder `into`. Returns nothing, mutates nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Going:
    """How far a long step is: `done` of `total` parts, each a `unit`; a part that is not whole is being done."""

    unit: str
    done: float
    total: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a step that takes long is lent. `folder` is there from the start and outlives an interruption, so that the
    next attempt at the same result finds what this one left; `tell` makes known how far it is."""

    folder: Path
    tell: Callable[[Going], None] = lambda going: None


@runtime_checkable
class Resumable(Step, Protocol):
    """A step that goes on where it was stopped: the store calls `resume` in place of `run`.

    What lies in the attempt's folder was left by the same step with the same options, source and versions, perhaps
    cut off while it was written.
    """

    def resume(self, source: Artifact, into: Path, attempt: Attempt) -> None: ...


Make: TypeAlias = Callable[["Step", Artifact], Artifact]


@runtime_checkable
class Composed(Step, Protocol):
    """A step with parts that are steps themselves, so that others which have the same part find it made: the store
    calls `compose` in place of `run`. `make` gives what a step makes of an artifact, as the store does.
    """

    def compose(self, source: Artifact, into: Path, make: Make) -> None: ...


@runtime_checkable
class HasDigest(Protocol):
    """A value that a step may hold as an option and that is known by its content (samples, artifacts)."""

    @property
    def digest(self) -> Digest: ...


def options_of(step: Step) -> dict[str, object]:
    """A step's options as plain JSON values; anything with a digest counts by its digest alone."""
    assert dataclasses.is_dataclass(step)
    return {field.name: _plain(getattr(step, field.name)) for field in dataclasses.fields(step)}


def _plain(value: object) -> object:
    if isinstance(value, HasDigest):
        return f"sha256:{value.digest}"
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, (frozenset, set)):
        return sorted(str(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{value!r} cannot be an option of a step: it has no stable JSON form and no digest")


def tool_versions(step: Step) -> dict[str, str]:
    """Installed version of each distribution in `step.requires`, and what the other Python that it may have says of its
    own; `absent` for those not installed."""
    found = {name: installed(name) or "absent" for name in sorted(step.requires)}
    other = other_python(step)
    return found | other.versions() if other else found


def other_python(step: Step | type[Step]) -> OtherPython | None:
    """The Python that runs a step's tool where that cannot be installed beside mlopt: its class attribute `python`."""
    named = getattr(step, "python", None)
    return named if isinstance(named, OtherPython) else None


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, without importing it.

    >>> installed("no-such-distribution") is None
    True
    """
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
