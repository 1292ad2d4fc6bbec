"""What a gate found, as one value; every output reads only this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlopt.errors import ConfigInvalid, ModelNotFound
from mlopt.measurement import Interval, Starts

SCHEMA: Final = 1
KIND: Final = "mlopt-gate"

METHOD: Final = ("scenario", "threads", "batch", "offline_batch")
"""What peak memory depends on besides model, machine and runtime."""
NAN: Final = "answers-nan"

Verdict = Literal["pass", "fail", "inconclusive"]
Unit = Literal["seconds", "bytes", "count", "share"]


@dataclass(frozen=True, slots=True)
class Check:
    """One number of the candidate against the baseline's (`regression`) or against the profile's (`budget`).

    `change` is the share by which the candidate is larger, of `top1` the share of answers lost; None where nothing is
    estimated from a sample. `margin` bounds that change; of a budget it is the limit itself.
    """

    metric: str
    kind: Literal["regression", "budget"]
    verdict: Verdict
    unit: Unit
    baseline: float | None
    candidate: float | None
    change: Interval | None
    margin: float
    method: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models. `operators` counts the nodes of each kind."""

    name: str
    digest: str
    runtime: str
    file_size: int
    operators: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the candidate answered right, one hexadecimal bit a sample, on the samples of that digest: so that a later
    gate against this result can pair them."""

    samples: str
    count: int
    right: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How the clocks were read. `control` is the change of a second copy of the baseline against the first, and
    `holds` the smallest margin that this machine could have proven in the same time."""

    device: str
    scenario: str
    threads: int
    batch: int
    offline_batch: int
    pairs: int
    runs: int
    seconds: float
    control: Interval | None
    holds: float | None


@dataclass(frozen=True, slots=True)
class NotCompared:
    metric: str
    reason: str


@dataclass(frozen=True, slots=True)
class Slower:
    """A layer that takes longer in the candidate: its seconds of a query under the runtime's profiler, the median of
    some queries of one process each. `layer` is its node, `operators` what it computes; 0 for a side without it."""

    layer: str
    operators: str
    baseline: float
    candidate: float


@dataclass(frozen=True, slots=True)
class GateResult:
    """`verdict` is `fail` when a check fails, else `inconclusive` when one is, else `pass`. `measured` are the
    candidate's own numbers by metric: seconds, bytes, samples per second, shares; `starts` those of each of its fresh
    processes. `slower` names layers where a clock fails. `samples` is the digest of what both answered."""

    schema: int
    kind: Literal["mlopt-gate"]
    mlopt: str
    verdict: Verdict
    candidate: Side
    baseline: Side
    profile: str
    machine: Mapping[str, str]
    checks: tuple[Check, ...]
    measured: Mapping[str, float]
    starts: Starts
    timing: Timing | None
    slower: tuple[Slower, ...]
    not_compared: tuple[NotCompared, ...]
    samples: str
    answers: Answers | None
    seconds: float


def verdict_of(checks: tuple[Check, ...]) -> Verdict:
    found = {check.verdict for check in checks}
    if "fail" in found:
        return "fail"
    return "inconclusive" if "inconclusive" in found or not checks else "pass"


@dataclass(frozen=True, slots=True)
class Stored:
    """A result that an earlier gate wrote with --json: its candidate is the baseline now. `method` holds what of
    `METHOD` is known, `peaks` the memory of each process (of one alone in results of an older mlopt), `nan` the samples
    of the digest `samples` with a NaN in an answer."""

    path: Path
    side: Side
    machine: Mapping[str, str]
    method: Mapping[str, str | int | None]
    values: Mapping[str, float]
    peaks: tuple[int, ...]
    samples: str | None
    nan: int | None
    answers: Answers | None


def read_stored(path: Path) -> Stored:
    """Raises `ModelNotFound`, and `ConfigInvalid` for what is no result of a gate or of another version."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelNotFound("There is no baseline at this path.", where=str(path), next=_GIVE) from error
    except (OSError, ValueError) as error:
        raise ConfigInvalid("The stored baseline is no JSON.", where=str(path), next=_GIVE) from error
    if not isinstance(found, dict) or found.get("kind") != KIND:
        raise ConfigInvalid("This JSON is no result of mlopt gate.", where=str(path), next=_GIVE)
    if found.get("schema") != SCHEMA:
        raise ConfigInvalid(
            f"The stored baseline has schema {found.get('schema')!r}; this mlopt reads schema {SCHEMA}.",
            where=str(path),
            next="make it anew with this mlopt: mlopt gate MODEL --baseline MODEL --json > result.json",
        )
    try:
        return _stored(path, found)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigInvalid(f"The stored baseline is damaged: {error!r}.", where=str(path), next=_GIVE) from error


_GIVE: Final = "give a model, a bundle, or what mlopt gate printed with --json"


def _stored(path: Path, found: Mapping[str, Any]) -> Stored:
    timing = found["timing"] or {}
    nan = next((check["candidate"] for check in found["checks"] if check["metric"] == NAN), None)
    values = {name: float(value) for name, value in found["measured"].items()}
    alone = [values["peak-memory"]] if "peak-memory" in values else []
    return Stored(
        path=path,
        side=Side(**found["candidate"]),
        machine=found["machine"],
        method={name: timing.get(name) for name in METHOD},
        values=values,
        peaks=tuple(map(int, found["starts"]["peaks"] if "starts" in found else alone)),
        samples=found.get("samples"),
        nan=None if nan is None else int(nan),
        answers=Answers(**found["answers"]) if found["answers"] else None,
    )
