"""One number over time: a point for each result, a level for each stretch, a mark where it changed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from mlopt.history.metrics import shown, title
from mlopt.history.series import Series
from mlopt.history.text import day
from mlopt.report import svg, text
from mlopt.report.axis import Axis, fit
from mlopt.report.plots import Figure

WIDTH: Final = 600.0
HEIGHT: Final = 230.0
LEFT, RIGHT, TOP, BOTTOM = 72.0, WIDTH - 14.0, 26.0, HEIGHT - 34.0
_NEAR: Final = 64.0  # pixels between two labels of changes that can both be read


def trend_plot(series: Series, *, name: str) -> Figure:
    """Results evenly spaced in their order, for commits come in bursts; the first and the last are dated."""
    across = Axis(-0.6, len(series.points) - 0.4, LEFT, RIGHT)
    up = fit(_shown_range(series), start=BOTTOM, end=TOP, log_from=math.inf)
    parts = [*_frame(series, across, up), *_levels(series, across, up), *_points(series, across, up)]
    heading = f"{series.entry.name}: {title(series.metric)}"
    drawing = svg.drawing(
        [*parts, *_marks(series, across)],
        width=WIDTH,
        height=HEIGHT,
        name=name,
        title=heading,
        description=_description(series),
        css="plot trend",
    )
    return Figure(drawing, heading, _caption(series, up))


def _shown_range(series: Series) -> list[float]:
    """All values; of those far off the rest the axis holds only that there are some."""
    values = [point.number.value for point in series.points]
    middle = statistics.median(values)
    spread = statistics.median(abs(value - middle) for value in values)
    levels = [change.after for change in series.changes] + [change.before for change in series.changes]
    kept = [value for value in values if not spread or abs(value - middle) <= 12 * spread]
    return [*kept, *levels]


def _frame(series: Series, across: Axis, up: Axis) -> list[str]:
    parts = [svg.element("rect", css="frame", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP)]
    for value in up.ticks(about=4):
        y = up.at(value)
        parts.append(svg.element("line", css="grid", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        shown_tick = text.rounded(shown(series.metric, value).removesuffix("×"))
        parts.append(svg.label(shown_tick, x=LEFT - 8, y=y + 4, css="tick", anchor="end"))
    first, last = series.points[0].entry, series.points[-1].entry
    parts.append(svg.label(day(first.time)[:10], x=LEFT, y=BOTTOM + 20, css="tick"))
    if len(series.points) > 1:
        ends = f"{day(last.time)[:10]} {last.revision[:9]}".strip()
        parts.append(svg.label(ends, x=RIGHT, y=BOTTOM + 20, css="tick", anchor="end"))
    return parts


def _levels(series: Series, across: Axis, up: Axis) -> list[str]:
    """The median of each stretch, its latest in the colour of what it changed to."""
    parts = []
    steps = series.steps
    for low, high in pairwise(steps):
        y = up.at(statistics.median(point.number.value for point in series.points[low:high]))
        parts.append(svg.element("line", css="level", x1=across.at(low - 0.5), y1=y, x2=across.at(high - 0.5), y2=y))
    return parts


def _points(series: Series, across: Axis, up: Axis) -> list[str]:
    parts = []
    for index, point in enumerate(series.points):
        x, number = across.at(index), point.number
        if number.low is not None and number.high is not None:
            ends = (up.at(number.low), up.at(number.high))
            parts.append(svg.element("line", css="whisker", x1=x, y1=ends[0], x2=x, y2=ends[1]))
        held = up.holds(number.value)
        said = f"{day(point.entry.time)} {point.entry.revision[:9]}{' with changes' if point.entry.dirty else ''}"
        parts.append(
            svg.element(
                "circle",
                css="dot" if held else "dot beyond-axis",
                cx=x,
                cy=up.at(number.value),
                r=3,
                title=f"{shown(series.metric, number.value)}, {said}".strip(),
            )
        )
    return parts


def _marks(series: Series, across: Axis) -> list[str]:
    parts = []
    free = -math.inf
    for change in series.changes:
        x = across.at(change.index - 0.5)
        css = "machine" if series.kind == "clock" else "worse" if change.worse else "better"
        parts.append(svg.element("line", css=f"change {css}", x1=x, y1=TOP, x2=x, y2=BOTTOM))
        if x - free < _NEAR:
            continue
        free = x
        anchor = "end" if x > RIGHT - 60 else "start" if x < LEFT + 60 else "middle"
        parts.append(svg.label(change.moved, x=x, y=TOP - 9, css=f"change {css}", anchor=anchor))
    return parts


def _description(series: Series) -> str:
    values: Sequence[float] = [point.number.value for point in series.points]
    ends = f"{_results(len(values))} from {shown(series.metric, values[0])} to {shown(series.metric, values[-1])}"
    changes = [f"{day(series.points[one.index].entry.time)[:10]} {one.moved}" for one in series.changes]
    return f"{ends}; changes: {text.listed(changes) or 'none'}"


def _results(count: int) -> str:
    return f"{count} result{'s' if count > 1 else ''}"


def _caption(series: Series, up: Axis) -> str:
    beyond = sum(not up.holds(point.number.value) for point in series.points)
    said = f"{beyond} off the axis, drawn at its edge" if beyond else ""
    whiskers = any(point.number.low is not None for point in series.points)
    return (
        "; ".join(filter(None, [_results(len(series.points)), "whiskers: 95 % interval" if whiskers else "", said]))
        + "."
    )
