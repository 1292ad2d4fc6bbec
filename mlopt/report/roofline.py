"""The roofline: how fast each layer computes against how much it computes for each byte, under this machine's peaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlopt.insight import Layer, Peak, Peaks
from mlopt.report import labels, svg, text
from mlopt.report.axis import Axis, fit
from mlopt.report.layers import name_of, total
from mlopt.report.plots import Figure
from mlopt.report.report import Report
from mlopt.report.sides import Side, anatomies

WIDTH, HEIGHT = 600.0, 420.0
LEFT, RIGHT, TOP, BOTTOM = 74.0, WIDTH - 16.0, 30.0, HEIGHT - 50.0
_FLAT: Final = ("fp32", "int8")
_LARGEST: Final = 15.0
_NAMED: Final = 4  # layers, the longest
_WORDS: Final = {"memory": "main memory", "cache": "cache"}


@dataclass(frozen=True, slots=True)
class Dot:
    """A layer in the plane: operations for each byte, operations per second, share of its side's time."""

    side: Side
    layer: Layer
    intensity: float
    speed: float
    share: float


def roofline_plot(report: Report) -> Figure:
    title = "Roofline"
    dots = list(_dots(report))
    peaks = report.insight.peaks if report.insight else None
    if not dots or peaks is None:
        return Figure("", title, "No layer was timed." if not dots else "The peaks of this machine are not known.")
    rates = [peak.rate for peak in peaks.peaks if peak.kind in _FLAT]
    across = _log(fit([dot.intensity for dot in dots], start=LEFT, end=RIGHT, margin=0.1, log_from=1.0))
    up = _log(fit([*(dot.speed for dot in dots), *rates], start=BOTTOM, end=TOP, margin=0.06, log_from=1.0))
    parts = [*_grid(across, up), *_roofs(peaks, across, up)]
    for dot in sorted(dots, key=lambda dot: -dot.share):
        parts.append(_mark(dot, across, up))
    parts += labels.placed(
        list(_named(dots, across, up)), left=LEFT, right=RIGHT, top=TOP, bottom=BOTTOM, winner=report.winner
    )
    drawing = svg.drawing(
        parts,
        width=WIDTH,
        height=HEIGHT,
        name="roofline",
        title=title,
        description="; ".join(_said(dot) for dot in sorted(dots, key=lambda dot: -dot.share)[:8]),
        css="plot roofline",
    )
    return Figure(drawing, title, _caption(report, dots, peaks))


def roof(peaks: Peaks, layer: Layer, intensity: float) -> float | None:
    """What the machine could do at most for such a layer, its values read from main memory."""
    memory, compute = peaks.rate("memory"), peaks.rate(layer.arithmetic)
    return min(compute, memory * intensity) if memory and compute else None


def _dots(report: Report) -> Iterator[Dot]:
    for side, anatomy in anatomies(report):
        if anatomy.layers is None:
            continue
        whole = total(anatomy.layers)
        for layer in anatomy.layers.layers:
            if layer.operations and layer.bytes and layer.seconds > 0:
                yield Dot(
                    side,
                    layer,
                    layer.operations / layer.bytes,
                    layer.operations / layer.seconds,
                    layer.seconds / whole,
                )


def _log(axis: Axis) -> Axis:
    """One value alone gives an even axis, and a roofline needs powers."""
    if axis.log:
        return axis
    middle = (axis.low + axis.high) / 2
    return Axis(middle / 10, middle * 10, axis.start, axis.end, log=True)


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = [svg.element("rect", css="frame", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP)]
    for value in across.ticks(about=6):
        x = across.at(value)
        parts.append(svg.element("line", css="grid", x1=x, y1=TOP, x2=x, y2=BOTTOM))
        parts.append(svg.label(f"{value:g}", x=x, y=BOTTOM + 18, css="tick", anchor="middle"))
    for value in up.ticks(about=6):
        y = up.at(value)
        parts.append(svg.element("line", css="grid", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(svg.label(text.rounded(text.speed(value)), x=LEFT - 8, y=y + 4, css="tick", anchor="end"))
    parts.append(svg.label("↑ operations per second (logarithmic)", x=LEFT, y=TOP - 12, css="axis"))
    parts.append(
        svg.label("operations per byte moved (logarithmic)  →", x=RIGHT, y=BOTTOM + 40, css="axis", anchor="end")
    )
    return parts


def _roofs(peaks: Peaks, across: Axis, up: Axis) -> Iterator[str]:
    """Level lines for what is multiplied, slanted ones for what is moved, each as far as it is inside the frame."""
    highest = max((peak.rate for peak in peaks.peaks if peak.kind in _FLAT), default=math.inf)
    for peak in peaks.peaks:
        css = f"roof {peak.kind}"
        if peak.kind in _FLAT:
            y = up.at(peak.rate)
            yield svg.element("line", css=css, x1=LEFT, y1=y, x2=RIGHT, y2=y, title=_peak(peak))
            yield svg.label(f"{peak.kind} {text.speed(peak.rate)}", x=LEFT + 8, y=y - 6, css="roof")
        elif ends := _slanted(peak.rate, highest, across, up):
            (x1, y1), (x2, y2) = ends
            yield svg.element("line", css=css, x1=x1, y1=y1, x2=x2, y2=y2, title=_peak(peak))


def _slanted(
    rate: float, highest: float, across: Axis, up: Axis
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Where speed = rate × intensity enters and leaves the frame, below the highest roof."""
    low = max(across.low, up.low / rate)
    high = min(across.high, min(up.high, highest) / rate)
    if low >= high:
        return None
    return (across.at(low), up.at(rate * low)), (across.at(high), up.at(rate * high))


def _mark(dot: Dot, across: Axis, up: Axis) -> str:
    """A circle for the baseline and a square for what ships; the area is the share of the time."""
    x, y, size = across.at(dot.intensity), up.at(dot.speed), _size(dot)
    css = f"layer {dot.side.css}"
    if dot.side.css == "baseline":
        return svg.element("circle", css=css, cx=x, cy=y, r=size, title=_said(dot))
    side = size * 1.77
    return svg.element("rect", css=css, x=x - side / 2, y=y - side / 2, width=side, height=side, title=_said(dot))


def _size(dot: Dot) -> float:
    return max(3.0, _LARGEST * math.sqrt(min(dot.share, 1.0) / 0.3))


def _named(dots: Sequence[Dot], across: Axis, up: Axis) -> Iterator[labels.Named]:
    """The longest, each node once: beside the one of its dots that takes more of its side's time."""
    longest: dict[str, Dot] = {}
    for dot in sorted(dots, key=lambda dot: -dot.share):
        longest.setdefault(name_of(dot.layer), dot)
    for name, dot in list(longest.items())[:_NAMED]:
        shown = svg.shortened("/".join(name.strip("/").split("/")[-2:]), characters=22)  # the end tells names apart
        yield labels.Named(shown, across.at(dot.intensity), up.at(dot.speed), _size(dot))


def _said(dot: Dot) -> str:
    return (
        f"{dot.side.name}, {name_of(dot.layer)}: {text.speed(dot.speed)} {dot.layer.arithmetic}, "
        f"{dot.intensity:.3g} operations per byte, {text.percent(dot.share)} of the time"
    )


def _peak(peak: Peak) -> str:
    rate = text.speed(peak.rate) if peak.kind in _FLAT else f"{text.size(peak.rate)}/s"
    return f"{_WORDS.get(peak.kind, peak.kind)} {rate} ({peak.by}: {peak.method})"


def _caption(report: Report, dots: Sequence[Dot], peaks: Peaks) -> str:
    threads = f"{peaks.threads} thread{'s' if peaks.threads > 1 else ''}"
    said = [
        "Circles: layers of the baseline; squares: of what ships; area: share of the time. A layer far below a roof "
        "leaves the machine idle; one on a slanted line waits for bytes.",
        f"Roofs, {peaks.grade} on {peaks.device} with {threads} on {peaks.taken[:10]}: "
        f"{'; '.join(_peak(peak) for peak in peaks.peaks)}.",
        "Operations and bytes are counted on the ONNX graph, every tensor once: a layer whose values stay in a cache "
        "may lie above the line of main memory.",
    ]
    above = sum(dot.speed > 1.02 * rate for dot in dots if (rate := peaks.rate(dot.layer.arithmetic)))
    if above:
        said.append(
            f"{above} {'layers lie' if above > 1 else 'layer lies'} above the level roof: the peaks were measured at a "
            "busier moment, or in other kernels."
        )
    for side, anatomy in anatomies(report):
        if anatomy.layers:
            drawn = sum(dot.share for dot in dots if dot.side == side)
            if drawn < 0.995:
                said.append(
                    f"Of {side.name} {text.percent(1 - drawn)} of the time is in layers without a counted operation."
                )
    return " ".join(said)
