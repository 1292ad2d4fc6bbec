"""Two results side by side: what can be compared, by how much it differs, and why the rest cannot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ConfigInvalid, ModelNotFound
from mlopt.history.entry import Entry, Number, read_line
from mlopt.history.metrics import METRICS, is_worse
from mlopt.history.recorded import Origin, entries_of
from mlopt.history.series import same
from mlopt.measure.ways import labels

_NEXT: Final = "give a bundle, what bench or gate printed with --json, or lines that history export wrote"
_SCHEMA: Final = 1
_AT_ANOTHER_TIME: Final = (
    "clocks of two runs: the same model, measured twice, has differed by 54 %; bench both side by side, or mlopt gate"
)
_NAMES: Final = {"baseline": "baseline beside it", "device": "machine"}


@dataclass(frozen=True, slots=True)
class Pair:
    """One number of both sides. `ratio` of B to A, with the interval that both intervals allow, where there are
    two; None for shares, whose `difference` is there instead."""

    metric: str
    before: Number
    after: Number
    ratio: Number | None
    difference: Number | None
    worse: bool | None


@dataclass(frozen=True, slots=True)
class Left:
    """Numbers that are not compared, and why."""

    metrics: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Match:
    """One model of A and one of B."""

    before: Entry
    after: Entry
    pairs: tuple[Pair, ...]
    left: tuple[Left, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    matches: tuple[Match, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def read_result(path: Path) -> list[Entry]:
    """The entries of a bundle, of a result that was printed with --json, or of exported lines.

    Raises `ModelNotFound`, and `ConfigInvalid` for what is none of those or of another version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "This folder is no bundle" if path.is_dir() else "There is no readable result at this path"
        raise ModelNotFound(f"{what}.", where=str(path), next=_NEXT) from error
    try:
        found = json.loads(text)
    except ValueError:
        lines = enumerate(text.splitlines(), 1)
        return [read_line(line, where=f"{path}:{number}") for number, line in lines if line.strip()]
    if isinstance(found, dict) and "numbers" in found:
        return [read_line(text, where=str(path))]
    return _of_json(found, path)


def compare(before: Sequence[Entry], after: Sequence[Entry]) -> Comparison:
    """Models of one name are compared; where each side has one model, those two, whatever they are called."""
    one, other = ({_name(entry, entries): entry for entry in entries} for entries in (before, after))
    if len(one) == len(other) == 1:
        return Comparison((_match(*one.values(), *other.values()),), (), ())
    matches = tuple(_match(one[name], other[name]) for name in one if name in other)
    return Comparison(
        matches, tuple(name for name in one if name not in other), tuple(name for name in other if name not in one)
    )


def _of_json(found: Any, path: Path) -> list[Entry]:
    if isinstance(found, dict) and found.get("schema", _SCHEMA) != _SCHEMA:
        raise ConfigInvalid(
            f"The result has schema {found['schema']!r}; this mlopt reads schema {_SCHEMA}.",
            where=str(path),
            next="make it anew with this mlopt",
        )
    try:
        return entries_of(found, Origin("", "", False))
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise ConfigInvalid("This is no result of mlopt.", where=str(path), next=_NEXT) from error


def _name(entry: Entry, beside: Sequence[Entry]) -> str:
    """A model's name within its result: with runtime, batch and threads where it was measured with several."""
    return labels([(one.name, one.runtime, one.batch, one.threads) for one in beside])[list(beside).index(entry)]


def _match(before: Entry, after: Entry) -> Match:
    left: dict[str, list[str]] = {}
    pairs = []
    for metric in METRICS:
        if metric not in before.numbers and metric not in after.numbers:
            continue
        if reason := _why_not(metric, before, after):
            left.setdefault(reason, []).append(metric)
        else:
            pairs.append(_pair(metric, before.numbers[metric], after.numbers[metric]))
    return Match(before, after, tuple(pairs), tuple(Left(tuple(names), reason) for reason, names in left.items()))


def _why_not(metric: str, before: Entry, after: Entry) -> str:
    """Why a number of both cannot be compared; empty where it can be."""
    for side, entry in (("A", before), ("B", after)):
        if metric not in entry.numbers:
            return f"{side} holds none"
    kind = METRICS[metric].kind
    if kind == "clock":
        return _AT_ANOTHER_TIME
    parts = [part for part in same(metric) if part != "verb"]
    for part in parts:
        one, other = getattr(before, part), getattr(after, part)
        if one != other:
            return f"another {_NAMES.get(part, part)}: {_short(one)} and {_short(other)}"
    return next(_other_runtimes(before, after), "") if kind == "memory" else ""


def _other_runtimes(before: Entry, after: Entry) -> Iterator[str]:
    """Memory is the runtime's as much as the model's."""
    for package in sorted(before.versions.keys() & after.versions.keys()):
        one, other = before.versions[package], after.versions[package]
        if one != other and package.partition("-")[0] == before.runtime.partition("-")[0]:
            yield f"another {package}: {one} and {other}"


def _short(value: object) -> str:
    return str(value).removeprefix("sha256:")[:40] if str(value).startswith("sha256:") else str(value) or "none"


def _pair(metric: str, before: Number, after: Number) -> Pair:
    worse = is_worse(metric, before.value, after.value) if before.value != after.value else None
    if METRICS[metric].kind == "answers":
        ends = _ends(before, after, lambda one, other: other - one)
        return Pair(metric, before, after, None, Number(after.value - before.value, *ends), worse)
    if before.value <= 0:
        return Pair(metric, before, after, None, None, worse)
    ends = _ends(before, after, lambda one, other: other / one)
    return Pair(metric, before, after, Number(after.value / before.value, *ends), None, worse)


def _ends(before: Number, after: Number, of: Callable[[float, float], float]) -> tuple[float | None, float | None]:
    """The interval of a difference or ratio from both intervals, as wide as it can be: the two are not paired."""
    if before.low is None or before.high is None or after.low is None or after.high is None:
        return None, None
    return of(before.high, after.low), of(before.low, after.high)
