"""The Pareto plot: how well each candidate answers against how fast it is, and how large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from mlopt.report import labels, svg, text, verdict
from mlopt.report.axis import Axis, fit
from mlopt.report.quality import Quality, budgets_of, quality_of
from mlopt.report.report import CandidateFacts, Report

WIDTH: Final = 600.0
HEIGHT: Final = 400.0
LEFT, RIGHT, TOP, BOTTOM = 60.0, WIDTH - 14.0, 30.0, HEIGHT - 50.0
_LARGEST_RADIUS: Final = 24.0
_SMALLEST_RADIUS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing (empty when there is nothing to draw) and what has to be said with it."""

    drawing: str
    title: str
    caption: str


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in the plane of the plot; `x` in seconds or bytes, intervals as (low, high)."""

    candidate: CandidateFacts
    x: float
    x_interval: tuple[float, float]
    y: float
    y_interval: tuple[float, float]
    radius: float


def pareto_plot(report: Report) -> Figure:
    """Quality against median latency; against file size where nothing was timed, which the caption then says."""
    quality = quality_of(report)
    timed = any(candidate.measurement for candidate in report.candidates)
    points = _points(report, quality, timed)
    title = f"{quality.name} against {'latency' if timed else 'file size'}"
    if not points:
        return Figure("", title, "No candidate has both numbers, so there is nothing to plot.")
    limit = budgets_of(report).get("latency-p50") if timed else budgets_of(report).get("file-size")
    across = fit(
        _with_limit([bound for point in points for bound in (point.x, *point.x_interval)], limit),
        start=LEFT + _LARGEST_RADIUS + 4,
        end=RIGHT - _LARGEST_RADIUS - 4,
    )
    up = fit(
        _with_limit([bound for point in points for bound in (point.y, *point.y_interval)], quality.limit),
        start=BOTTOM - _LARGEST_RADIUS - 4,
        end=TOP + _LARGEST_RADIUS + 4,
        log_from=math.inf,
    )
    front = _front(points, across, up)
    parts = [
        *_frame(across, up, quality, timed),
        *_limits(across, up, limit, quality, timed),
        svg.element("path", css="front", d=svg.path(front)),
        *_marks(report, points, across, up, quality, timed),
        *labels.placed(
            [labels.Named(_name(report, one.candidate), across.at(one.x), up.at(one.y), one.radius) for one in points],
            left=LEFT,
            right=RIGHT,
            top=TOP,
            bottom=BOTTOM,
            winner=report.winner,
            lines=[*pairwise(front), *_level(up, quality)],
        ),
    ]
    description = "; ".join(_say(report, point, quality, timed) for point in points)
    drawing = svg.drawing(
        parts, width=WIDTH, height=HEIGHT, name="pareto", title=title, description=description, css="plot pareto"
    )
    return Figure(drawing, title, _caption(report, quality, points, timed))


def _level(up: Axis, quality: Quality) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """The stroke of the budget on quality, if there is one."""
    return [] if quality.limit is None else [((LEFT, up.at(quality.limit)), (RIGHT, up.at(quality.limit)))]


def _points(report: Report, quality: Quality, timed: bool) -> list[Point]:
    largest = max((candidate.file_size for candidate in report.candidates), default=0) or 1
    finite = [level.value for level in quality.levels.values() if math.isfinite(level.value)]
    ceiling = max(finite, default=1.0) * 1.15 or 1.0  # where "identical", an infinite SQNR, is drawn
    points = []
    for candidate in report.candidates:
        level = quality.levels.get(candidate.name)
        if candidate.failure or level is None or (timed and candidate.measurement is None):
            continue
        x = float(candidate.file_size)
        interval = (x, x)
        if timed and candidate.measurement is not None:
            latency = candidate.measurement.latency
            x, interval = latency.p50, median_interval(latency.samples) or (latency.p50, latency.p50)
        if not math.isfinite(x):
            continue
        radius = max(_SMALLEST_RADIUS, _LARGEST_RADIUS * math.sqrt(max(candidate.file_size, 0) / largest))
        y, low, high = (value if math.isfinite(value) else ceiling for value in (level.value, level.low, level.high))
        points.append(Point(candidate, x, interval, y, (low, high), radius))
    return points


def median_interval(samples: Sequence[float]) -> tuple[float, float] | None:
    """Distribution-free 95 % interval of the median, from order statistics; None below six samples.

    It takes queries as independent of each other.
    """
    known = sorted(sample for sample in samples if math.isfinite(sample))
    if len(known) < 6:
        return None
    half = 1.96 * math.sqrt(len(known)) / 2
    low = max(math.floor(len(known) / 2 - half), 0)
    return known[low], known[len(known) - 1 - low]


def _with_limit(values: list[float], limit: float | None) -> list[float]:
    """The values, with the budget among them when it lies so near that seeing it does not squeeze the rest."""
    if limit is None or not math.isfinite(limit):
        return values
    low, high = min(values), max(values)
    near = max(high - low, 0.2 * abs(high)) * 0.8
    return [*values, limit] if low - near <= limit <= high + near else values


def _frame(across: Axis, up: Axis, quality: Quality, timed: bool) -> list[str]:
    parts = [svg.element("rect", css="frame", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP)]
    show = text.seconds if timed else text.size
    for value in across.ticks(about=6):
        x = across.at(value)
        parts.append(svg.element("line", css="grid", x1=x, y1=TOP, x2=x, y2=BOTTOM))
        parts.append(svg.label(_tick(show(value)), x=x, y=BOTTOM + 18, css="tick", anchor="middle"))
    for value in up.ticks(about=6):
        y = up.at(value)
        parts.append(svg.element("line", css="grid", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(svg.label(_tick(quality.show(value)), x=LEFT - 8, y=y + 4, css="tick", anchor="end"))
    name = "latency p50, single query" if timed else "file size"
    scale = " (logarithmic)" if across.log else ""
    parts.append(svg.label(f"{name}{scale}  →", x=RIGHT, y=BOTTOM + 40, css="axis", anchor="end"))
    parts.append(svg.label(f"↑ {svg.shortened(quality.axis, characters=58)}", x=LEFT, y=TOP - 12, css="axis"))
    return parts


def _tick(shown: str) -> str:
    return svg.shortened(text.rounded(shown), characters=10)


def _limits(across: Axis, up: Axis, limit: float | None, quality: Quality, timed: bool) -> list[str]:
    """The budgets as lines, what lies beyond them tinted; one that is off the plot is named at its edge."""
    parts = []
    if limit is not None and math.isfinite(limit):
        shown = svg.shortened(f"budget {(text.seconds if timed else text.size)(limit)}", characters=32)
        x = across.at(limit)
        if across.holds(limit):
            parts.append(svg.element("rect", css="beyond", x=x, y=TOP, width=RIGHT - x, height=BOTTOM - TOP))
            parts.append(svg.element("line", css="limit", x1=x, y1=TOP, x2=x, y2=BOTTOM))
            anchor = "end" if x > (LEFT + RIGHT) / 2 else "start"
            parts.append(
                svg.label(shown, x=x - 6 if anchor == "end" else x + 6, y=BOTTOM - 8, css="limit", anchor=anchor)
            )
        elif limit > across.high:
            parts.append(svg.label(f"{shown} →", x=RIGHT - 8, y=BOTTOM - 8, css="limit", anchor="end"))
        else:
            parts.append(svg.element("rect", css="beyond", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP))
            parts.append(svg.label(f"← {shown}", x=LEFT + 8, y=BOTTOM - 8, css="limit"))
    if quality.limit is not None and math.isfinite(quality.limit):
        shown = svg.shortened(f"budget {quality.show(quality.limit)}", characters=32)
        y = up.at(quality.limit)
        if up.holds(quality.limit):
            parts.append(svg.element("rect", css="beyond", x=LEFT, y=y, width=RIGHT - LEFT, height=BOTTOM - y))
            parts.append(svg.element("line", css="limit", x1=LEFT, y1=y, x2=RIGHT, y2=y))
            parts.append(svg.label(shown, x=RIGHT - 8, y=y + 16, css="limit", anchor="end"))
        else:
            below = quality.limit < up.low
            parts.append(
                svg.label(
                    f"{'↓' if below else '↑'} {shown}", x=LEFT + 8, y=BOTTOM - 24 if below else TOP + 16, css="limit"
                )
            )
    return parts


def _front(points: Sequence[Point], across: Axis, up: Axis) -> list[tuple[float, float]]:
    """The stairs through those that no other beats on both axes: nothing lies above and left of them.

    A candidate's `pareto` also counts what only one axis of this plane shows, so the table shows that one.
    """
    corners: list[tuple[float, float]] = []
    best = -math.inf
    for point in sorted(points, key=lambda point: (point.x, -point.y)):
        if point.y <= best:
            continue
        best = point.y
        x, y = across.at(point.x), up.at(point.y)
        corners += [(x, corners[-1][1] if corners else BOTTOM), (x, y)]
    return [*corners, (RIGHT, corners[-1][1])]


def _marks(report: Report, points: Sequence[Point], across: Axis, up: Axis, quality: Quality, timed: bool) -> list[str]:
    """Circles with their whiskers, large ones first so that small ones stay visible."""
    parts = []
    for point in sorted(points, key=lambda point: -point.radius):
        x, y = across.at(point.x), up.at(point.y)
        kind = verdict.role(report, point.candidate)
        kind_css = f"mark {kind}" + (" baseline" if point.candidate.name == report.baseline else "")
        said = _say(report, point, quality, timed)
        parts.append(svg.element("circle", css=kind_css, cx=x, cy=y, r=point.radius, title=said))
        left, right = (across.at(bound) for bound in point.x_interval)
        bottom, top = (up.at(bound) for bound in point.y_interval)
        parts.append(svg.element("line", css="whisker", x1=left, y1=y, x2=right, y2=y))
        parts.append(svg.element("line", css="whisker", x1=x, y1=bottom, x2=x, y2=top))
        parts.append(svg.element("circle", css="centre", cx=x, cy=y, r=2))
    return parts


def _name(report: Report, candidate: CandidateFacts) -> str:
    if candidate.name == report.winner:
        return f"★ {candidate.name}"
    return f"{candidate.name} (baseline)" if candidate.name == report.baseline != "baseline" else candidate.name


def _say(report: Report, point: Point, quality: Quality, timed: bool) -> str:
    level = quality.levels[point.candidate.name]
    word = verdict.ROLE_WORDS[verdict.role(report, point.candidate)]
    speed = f"{text.seconds(point.x)}, " if timed else ""
    answers = f"{quality.name} {quality.show(level.value)}"
    return f"{point.candidate.name} ({word}): {speed}{answers}, {text.size(point.candidate.file_size)}"


def _caption(report: Report, quality: Quality, points: Sequence[Point], timed: bool) -> str:
    said = ["Circle area is file size; no candidate lies above and left of the stairs, the Pareto front."]
    if not timed:
        said.append(f"Nothing was timed: this machine is not {report.target.name}. File size stands in for latency.")
    whiskers = {
        "top1": "Upright whiskers: 95 % interval of the drop against the baseline, paired by sample.",
        "agreement": "Upright whiskers: 95 % interval of the agreement.",
    }.get(quality.kind)
    said += [whiskers] if whiskers else []
    said += ["Level whiskers: 95 % interval of the median, queries taken as independent."] if timed else []
    same = [name for name, level in quality.levels.items() if math.isinf(level.value)]
    said += (
        [f"Identical to the baseline, so without a finite SQNR and drawn at the top: {text.listed(same)}."]
        if same
        else []
    )
    plotted = {point.candidate.name for point in points}
    missing = [candidate.name for candidate in report.candidates if candidate.name not in plotted]
    said += [f"Not in the plot, for want of a number: {text.listed(missing)}."] if missing else []
    return " ".join(said)
