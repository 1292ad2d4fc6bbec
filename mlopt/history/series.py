"""Entries as series of one number each, of what may be compared, and where they changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

from mlopt.history.changes import MOST, splits
from mlopt.history.entry import Entry, Number
from mlopt.history.metrics import METRICS, is_worse, moved


@dataclass(frozen=True, slots=True)
class Point:
    entry: Entry
    number: Number


@dataclass(frozen=True, slots=True)
class Change:
    """A series is another one from `index` on. `p` is 0 for what is counted and leaves no doubt.

    `between` are the commits that it lies between, and `also` names what else is another version since then.
    """

    index: int
    p: float
    before: float
    after: float
    worse: bool
    moved: str
    between: tuple[str, str]
    also: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One number of one model over time, as `entry` (the latest) says where and how it was measured."""

    metric: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...]

    @property
    def entry(self) -> Entry:
        return self.points[-1].entry

    @property
    def kind(self) -> str:
        return METRICS[self.metric].kind

    @property
    def steps(self) -> tuple[int, ...]:
        """The edges of the stretches between changes, both ends included."""
        return (0, *(change.index for change in self.changes), len(self.points))


Part = Literal["verb", "runtime", "scenario", "threads", "batch", "device", "baseline", "samples"]

# What must be the same for two numbers to be of one series, beside the model's name.
_SAME: Final[dict[str, tuple[Part, ...]]] = {
    "ratio": ("runtime", "scenario", "threads", "batch", "device", "baseline"),
    "clock": ("verb", "runtime", "scenario", "threads", "batch", "device"),
    "memory": ("verb", "runtime", "scenario", "threads", "batch", "device"),
    "answers": ("runtime", "samples"),
    "counted": (),
}


def series_of(entries: Iterable[Entry]) -> list[Series]:
    """By model, then in the order of `METRICS`; each holds the latest results, `MOST` of them at most."""
    found: dict[tuple[str, ...], list[Point]] = {}
    for entry in entries:
        for metric in METRICS.keys() & entry.numbers.keys():
            found.setdefault(_place(entry, metric), []).append(Point(entry, entry.numbers[metric]))
    order = list(METRICS)
    places = sorted(found, key=lambda place: (place[0], place[1], order.index(place[2]), place[3:]))
    return [_series(place[2], found[place][-MOST:]) for place in places]


def same(metric: str) -> tuple[Part, ...]:
    """What two entries must share for this number of both to be compared."""
    return _SAME[METRICS[metric].kind]


def _place(entry: Entry, metric: str) -> tuple[str, ...]:
    return (entry.model, entry.variant, metric, *(str(getattr(entry, name)) for name in same(metric)))


def _series(metric: str, points: Sequence[Point]) -> Series:
    values = [point.number.value for point in points]
    changes = []
    for index, p, before, after in _found(metric, values):
        older, newer = points[index - 1].entry, points[index].entry
        change = Change(
            index=index,
            p=p,
            before=before,
            after=after,
            worse=is_worse(metric, before, after),
            moved=moved(metric, before, after),
            between=(older.revision, newer.revision),
            also=_other_versions(older, newer),
        )
        changes.append(change)
    return Series(metric, tuple(points), tuple(changes))


def _found(metric: str, values: Sequence[float]) -> list[tuple[int, float, float, float]]:
    """Index, p, the number before and after. What is counted changed wherever it is another number."""
    if METRICS[metric].kind == "counted":
        pairs = pairwise(values)
        return [(number, 0.0, one, other) for number, (one, other) in enumerate(pairs, 1) if one != other]
    positive = all(value > 0 for value in values) and METRICS[metric].kind != "answers"
    plain = [math.log(value) for value in values] if positive else list(values)
    back = math.exp if positive else float
    return [(one.index, one.p, back(one.before), back(one.after)) for one in splits(plain)]


def _other_versions(older: Entry, newer: Entry) -> tuple[str, ...]:
    names = older.versions.keys() & newer.versions.keys()
    return tuple(
        f"{name} {older.versions[name]} → {newer.versions[name]}"
        for name in sorted(names)
        if older.versions[name] != newer.versions[name]
    )
