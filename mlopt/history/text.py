"""A history as a terminal shows it: what changed, newest first, then where every number stands."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from mlopt.history.changes import LEVEL
from mlopt.history.entry import Entry
from mlopt.history.metrics import shown
from mlopt.history.series import Change, Series
from mlopt.report import text

_HEADS: Final = ("metric", "results", "median", "latest", "range")
CLOCKS: Final = (
    "A clock's change may be the machine's: its moods, or what else ran. The latency against a baseline that ran "
    "beside it leaves those out: bench two models, or gate."
)


def to_terminal(path: Path, entries: Sequence[Entry], series: Sequence[Series], *, width: int) -> str:
    lines = [f"{path}: {summary(entries)}", ""]
    changed = changes_of(series)
    lines += ["changes"] if changed else [f"no change in {_count(len(series), 'series', 'series')}"]
    for one, change in changed:
        lines += textwrap.wrap(
            f"  {told(one, change)}", width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
    for name, group in groupby(series, key=lambda one: one.entry.name):
        lines += ["", text.cleaned(name), *_table(list(group), width)]
    lines += ["", *textwrap.wrap(method(series), width)]
    return "\n".join(lines)


def summary(entries: Sequence[Entry]) -> str:
    """How many results of how many models, and from when to when."""
    models = {entry.name for entry in entries}
    return f"{_count(len(entries), 'result')} of {_count(len(models), 'model')}{_span(entries)}"


def changes_of(series: Sequence[Series]) -> list[tuple[Series, Change]]:
    """Newest first."""
    found = [(one, change) for one in series for change in one.changes]
    return sorted(found, key=lambda pair: pair[0].points[pair[1].index].entry.time, reverse=True)


def told(series: Series, change: Change) -> str:
    """One change in one line: when, what, by how much, between which commits, and what else is new since."""
    entry = text.cleaned(series.points[change.index].entry)
    said = f"{day(entry.time)}  {entry.name}  {series.metric} {from_to(series, change)}, {where(change)}"
    return f"{said}; {text.listed(change.also)}" if change.also else said


def from_to(series: Series, change: Change) -> str:
    """`1.00 ms → 1.10 ms (+10.0 %, worse)`"""
    before, after = (shown(series.metric, value) for value in (change.before, change.after))
    way = "worse" if change.worse else "better"
    way = "spread" if before == after else way
    return f"{before} → {after} ({change.moved}, {way})"


def where(change: Change) -> str:
    """The commits that a change lies between; none, if it is the same commit on both sides."""
    before, after = (revision[:9] for revision in change.between)
    if not after:
        return "at no known commit"
    if before == after:
        return f"within commit {after}"
    return f"between {before} and {after}" if before else f"at {after}"


def method(series: Sequence[Series]) -> str:
    said = (
        f"Changes by E-divisive on the latest results of a series, each at a level of {LEVEL * 100:g} % by permutation."
    )
    clocks = any(one.changes and one.kind == "clock" for one in series)
    return f"{said} {CLOCKS}" if clocks else said


def day(time: str) -> str:
    return time[:16].replace("T", " ")


def how(series: Series) -> str:
    """Where and how a series was measured; for what is counted there is nothing to say."""
    entry = series.entry
    if series.kind == "counted":
        return ""
    if series.kind == "answers":
        return f"{entry.runtime}, {entry.samples}"
    threads = f"{entry.threads} thread{'s' if entry.threads > 1 else ''}"
    return f"{entry.runtime}, {entry.scenario}, batch {entry.batch}, {threads}, {entry.device}"


def by_place(series: Sequence[Series]) -> list[tuple[str, list[Series]]]:
    """Under what `how` says of them, each said once; what is counted, of which there is nothing to say, comes first."""
    places: dict[str, list[Series]] = {"": []}
    for one in series:
        places.setdefault(how(one), []).append(one)
    return [(said, group) for said, group in places.items() if group]


def _table(series: Sequence[Series], width: int) -> list[str]:
    blocks: list[tuple[str, list[tuple[str, ...]]]] = [
        ("", [_HEADS]),
        *((said, [_row(one) for one in group]) for said, group in by_place(series)),
    ]
    widths = [max(len(row[column]) for _, rows in blocks for row in rows) for column in range(len(_HEADS))]
    lines = []
    for said, rows in blocks:
        lines += textwrap.wrap(text.cleaned(said), width, initial_indent="  ", subsequent_indent="  ")
        for row in rows:
            numbers = (cell.rjust(size) for cell, size in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join(("", row[0].ljust(widths[0]), *numbers)).rstrip())
    return lines


def _row(series: Series) -> tuple[str, ...]:
    values = [point.number.value for point in series.points]
    now = values[series.steps[-2] :]
    ends = f"{shown(series.metric, min(values))} – {shown(series.metric, max(values))}" if len(values) > 1 else ""
    middle = shown(series.metric, statistics.median(now))
    return (series.metric, str(len(values)), middle, shown(series.metric, values[-1]), ends)


def _span(entries: Sequence[Entry]) -> str:
    if not entries:
        return ""
    first, last = day(entries[0].time)[:10], day(entries[-1].time)[:10]
    return f", {first}" if first == last else f", {first} to {last}"


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
