"""Latencies in full: a histogram of the baseline beside what ships, and for every candidate the share of its queries
that are done within a time (the empirical distribution function)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Final

from mlopt.measurement import Measurement
from mlopt.report import svg, text
from mlopt.report.axis import Axis, fit
from mlopt.report.plots import Figure
from mlopt.report.report import Report
from mlopt.report.sides import Side, sides_of

WIDTH: Final = 600.0
LEFT, RIGHT = 56.0, WIDTH - 34.0
_UPPER, _LOWER = (26.0, 136.0), (172.0, 352.0)  # from and to which height the histogram and the shares are drawn
_BINS: Final = 56
_STEPS: Final = 260
_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


def cumulative_plot(report: Report) -> Figure:
    """Both over one axis, which ends at the largest p99."""
    title = "Latencies in full"
    sides = {side.name: side for side in sides_of(report)}
    taken = {
        one.name: one.measurement
        for one in report.candidates
        if one.measurement and any(map(math.isfinite, one.measurement.latency.samples))
    }
    if not taken:
        return Figure("", title, "No latency was measured.")
    ends = [end for one in taken.values() for end in (one.latency.minimum, one.latency.p50, one.latency.p99)]
    across = fit(ends, start=LEFT, end=RIGHT, margin=0.03, log_from=5.0)
    parts = _grid(across)
    both = [(side, taken[name]) for name, side in sides.items() if name in taken]
    parts += _histograms(both, across)
    others = [one for name, one in taken.items() if name not in sides]
    parts += [_curve(one.latency.samples, across, "ecdf other") for one in others]
    parts += [_curve(one.latency.samples, across, f"ecdf {side.css}") for side, one in both]
    drawing = svg.drawing(
        parts,
        width=WIDTH,
        height=_LOWER[1] + 44,
        name="cumulative",
        title=title,
        description="; ".join(_said(name, one) for name, one in taken.items()),
        css="plot cumulative",
    )
    return Figure(drawing, title, _caption(both, len(others), across))


def histogram(samples: Sequence[float], axis: Axis, *, bins: int = _BINS) -> tuple[float, ...]:
    """The share of all samples in each of equally wide stretches of the axis; those beyond it are in none."""
    counts = [0] * bins
    width = (axis.end - axis.start) / bins
    for sample in samples:
        if math.isfinite(sample) and axis.holds(sample):
            counts[min(int((axis.at(sample) - axis.start) / width), bins - 1)] += 1
    return tuple(count / len(samples) for count in counts)


def share_within(ordered: Sequence[float], limit: float) -> float:
    """Which share of sorted samples is no larger.

    >>> share_within([1.0, 2.0, 4.0, 8.0], 4.0)
    0.75
    """
    return bisect.bisect_right(ordered, limit) / len(ordered)


def _grid(across: Axis) -> list[str]:
    parts = []
    for value in across.ticks(about=6):
        x = across.at(value)
        for top, bottom in (_UPPER, _LOWER):
            parts.append(svg.element("line", css="grid", x1=x, y1=top, x2=x, y2=bottom))
        shown = svg.shortened(text.rounded(text.seconds(value)), characters=11)
        parts.append(svg.label(shown, x=x, y=_LOWER[1] + 18, css="tick", anchor="middle"))
    for share in _SHARES:
        y = _LOWER[1] - share * (_LOWER[1] - _LOWER[0])
        parts.append(svg.element("line", css="grid", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(svg.label(f"{share * 100:.0f} %", x=LEFT - 8, y=y + 4, css="tick", anchor="end"))
    scale = " (logarithmic)" if across.log else ""
    parts.append(svg.label("↑ queries that take this long", x=LEFT, y=_UPPER[0] - 10, css="axis"))
    parts.append(svg.label("↑ share that is done within this time", x=LEFT, y=_LOWER[0] - 10, css="axis"))
    parts.append(svg.label(f"latency{scale}  →", x=RIGHT, y=_LOWER[1] + 38, css="axis", anchor="end"))
    return parts


def _histograms(both: Sequence[tuple[Side, Measurement]], across: Axis) -> list[str]:
    shares = [(side, histogram(one.latency.samples, across)) for side, one in both]
    most = max((share for _, heights in shares for share in heights), default=0.0)
    top, bottom = _UPPER
    parts = [svg.element("line", css="frame", x1=LEFT, y1=bottom, x2=RIGHT, y2=bottom)]
    if not most:
        return parts
    parts.append(svg.element("line", css="grid", x1=LEFT, y1=top, x2=RIGHT, y2=top))
    parts.append(svg.label(f"{most * 100:.0f} %", x=LEFT - 8, y=top + 4, css="tick", anchor="end"))
    width = (RIGHT - LEFT) / _BINS
    for side, heights in shares:
        points = [(LEFT, bottom)]
        for number, height in enumerate(heights):
            y = bottom - height / most * (bottom - top)
            points += [(LEFT + number * width, y), (LEFT + (number + 1) * width, y)]
        outline = svg.path([*points, (RIGHT, bottom)], closed=True)
        parts.append(svg.element("path", css=f"bars {side.css}", d=outline, title=side.name))
    return parts


def _curve(samples: Sequence[float], across: Axis, css: str) -> str:
    ordered = sorted(sample for sample in samples if math.isfinite(sample))
    top, bottom = _LOWER
    points = []
    for number in range(_STEPS + 1):
        x = LEFT + (RIGHT - LEFT) * number / _STEPS
        points.append((x, bottom - share_within(ordered, _value(across, x)) * (bottom - top)))
    return svg.element("path", css=css, d=svg.path(points))


def _value(across: Axis, x: float) -> float:
    part = (x - across.start) / (across.end - across.start)
    if across.log:
        return across.low * math.pow(across.high / across.low, part)
    return across.low + part * (across.high - across.low)


def _said(name: str, taken: Measurement) -> str:
    latency = taken.latency
    return f"{name}: half within {text.seconds(latency.p50)}, 99 % within {text.seconds(latency.p99)}"


def _caption(both: Sequence[tuple[Side, Measurement]], others: int, across: Axis) -> str:
    said = ["Above, the shares of queries in equal stretches of the axis; below, every candidate's share so far."]
    for side, taken in both:
        beyond = sum(math.isfinite(one) and one > across.high for one in taken.latency.samples)
        slowest = f", {beyond} beyond the axis, up to {text.seconds(taken.latency.maximum)}" if beyond else ""
        said.append(f"{side.name}: {text.count(taken.latency.queries)} queries{slowest}.")
    if others:
        said.append(f"Thin lines: the other {others}." if others > 1 else "Thin line: the other candidate.")
    return " ".join(said)
