"""The plot of latency distributions: one strip per candidate on one axis, with ticks at p50, p90 and p99."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from mlopt.measurement import Measurement
from mlopt.report import svg, text
from mlopt.report.axis import Axis, fit
from mlopt.report.plots import Figure
from mlopt.report.report import Report
from mlopt.report.table import Row, table_of

WIDTH: Final = 600.0
LEFT, RIGHT, TOP = 138.0, WIDTH - 32.0, 10.0
_STRIP: Final = 46.0
_BINS: Final = 90


def latency_plot(report: Report) -> Figure:
    """Density of single-query latencies. The axis ends at the largest p99; what is beyond is counted, not drawn."""
    title = "Latency distributions"
    rows = [(row, row.candidate.measurement) for row in table_of(report).rows if row.candidate.measurement]
    timed = [(row, taken) for row, taken in rows if taken is not None and math.isfinite(taken.latency.p50)]
    if not timed:
        where = "" if report.target.this_machine else f": this machine is not {report.target.name}"
        return Figure("", title, f"No latency was measured{where}.")
    bottom = TOP + _STRIP * len(timed)
    ends = [bound for _, taken in timed for bound in (taken.latency.minimum, taken.latency.p50, taken.latency.p99)]
    across = fit(ends, start=LEFT, end=RIGHT, margin=0.04, log_from=5.0)
    parts = _grid(across, bottom)
    for number, (row, taken) in enumerate(timed):
        parts += _strip(row, taken, across, TOP + _STRIP * number)
    said = "; ".join(f"{row.candidate.name}: {_percentiles(taken)}" for row, taken in timed)
    drawing = svg.drawing(
        parts, width=WIDTH, height=bottom + 44, name="latency", title=title, description=said, css="plot latency"
    )
    return Figure(drawing, title, _caption(across, timed))


def density(samples: Sequence[float], axis: Axis, *, bins: int = _BINS) -> tuple[float, ...]:
    """How many samples fall into each of equally wide stretches of the axis, smoothed, the highest scaled to 1.

    Samples that are not finite or lie beyond the axis are not counted.
    """
    heights = [0.0] * bins
    width = (axis.end - axis.start) / bins
    for sample in samples:
        if math.isfinite(sample) and axis.holds(sample):
            heights[min(int((axis.at(sample) - axis.start) / width), bins - 1)] += 1.0
    padded = [0.0, *heights, 0.0]
    smooth = [0.25 * padded[i] + 0.5 * padded[i + 1] + 0.25 * padded[i + 2] for i in range(bins)]
    highest = max(smooth)
    return tuple(height / highest for height in smooth) if highest else tuple(smooth)


def _grid(across: Axis, bottom: float) -> list[str]:
    parts = []
    for value in across.ticks(about=6):
        x = across.at(value)
        parts.append(svg.element("line", css="grid", x1=x, y1=TOP, x2=x, y2=bottom))
        parts.append(
            svg.label(
                svg.shortened(text.rounded(text.seconds(value)), characters=11),
                x=x,
                y=bottom + 18,
                css="tick",
                anchor="middle",
            )
        )
    scale = " (logarithmic)" if across.log else ""
    parts.append(svg.label(f"latency of single queries{scale}  →", x=RIGHT, y=bottom + 38, css="axis", anchor="end"))
    return parts


def _strip(row: Row, taken: Measurement, across: Axis, top: float) -> list[str]:
    middle, half = top + _STRIP / 2, _STRIP * 0.36
    latency = taken.latency
    name = svg.shortened(("★ " if row.role == "ships" else "") + row.candidate.name, characters=16)
    css = "name ships" if row.role == "ships" else "name"
    parts = [
        svg.label(name, x=LEFT - 12, y=middle + 4, css=css, anchor="end"),
        svg.element("line", css="grid", x1=LEFT, y1=middle, x2=RIGHT, y2=middle),
    ]
    heights = density(latency.samples, across)
    width = (RIGHT - LEFT) / len(heights)
    for run in _runs(heights):
        upper = [(LEFT + (i + 0.5) * width, middle - half * heights[i]) for i in run]
        lower = [(x, 2 * middle - y) for x, y in reversed(upper)]
        outline = svg.path([*upper, *lower], closed=True)
        parts.append(svg.element("path", css=f"density {row.role}", d=outline, title=_percentiles(taken)))
    for value, css, reach in ((latency.p50, "p50", 1.0), (latency.p90, "p90", 0.7), (latency.p99, "p99", 0.7)):
        if math.isfinite(value):
            x = across.at(value)
            parts.append(svg.element("line", css=css, x1=x, y1=middle - half * reach, x2=x, y2=middle + half * reach))
    return parts


def _runs(heights: Sequence[float]) -> Iterator[range]:
    """Stretches without a gap, each with the empty bins at its ends, so that stray queries stay islands."""
    start: int | None = None
    for i, height in enumerate([*heights, 0.0]):
        if height > 0 and start is None:
            start = i
        elif height <= 0 and start is not None:
            yield range(max(start - 1, 0), min(i + 1, len(heights)))
            start = None


def _percentiles(taken: Measurement) -> str:
    latency = taken.latency
    shown = f"p50 {text.seconds(latency.p50)}, p90 {text.seconds(latency.p90)}, p99 {text.seconds(latency.p99)}"
    return f"{shown}, {text.count(latency.queries)} queries"


def _caption(across: Axis, timed: Sequence[tuple[Row, Measurement]]) -> str:
    said = ["Ticks: p50 (long), p90 and p99 (short). Each strip is scaled to its own highest density."]
    for row, taken in timed:
        beyond = sum(1 for sample in taken.latency.samples if math.isfinite(sample) and sample > across.high)
        if beyond:
            slowest = text.seconds(taken.latency.maximum)
            noun = "query" if beyond == 1 else "queries"
            said.append(f"{row.candidate.name}: {beyond} {noun} beyond the axis, the slowest {slowest}.")
    return " ".join(said)
