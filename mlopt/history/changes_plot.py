"""By how much each number of B differs from A's, with its interval, on one axis around no change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from mlopt.history.compare import Pair
from mlopt.history.compared_text import change, name_of, word
from mlopt.report import svg
from mlopt.report.axis import Axis
from mlopt.report.plots import Figure

WIDTH: Final = 600.0
LEFT, RIGHT, TOP = 150.0, WIDTH - 40.0, 26.0
_ROW: Final = 34.0
_LEAST: Final = 1.0  # percent or points that the axis reaches at least
_MOST: Final = 400.0
_SHAPES: Final = {"worse": "✗", "better": "✓", "undecided": "?", "": "●"}


def changes_plot(pairs: Sequence[Pair], *, name: str) -> Figure:
    """Percent, and points of shares. A mark says by its shape too what it means."""
    heading = "Change from A to B"
    drawn = [(pair, *ends) for pair in pairs if (ends := _ends(pair))]
    if not drawn:
        return Figure("", heading, "No number can be compared.")
    reach = min(_MOST, max(_LEAST, *(abs(end) for _, *ends in drawn for end in ends if math.isfinite(end))) * 1.08)
    across = Axis(-reach, reach, LEFT, RIGHT)
    bottom = TOP + _ROW * len(drawn)
    parts = []
    for value in across.ticks(about=4):
        x = across.at(value)
        parts.append(svg.element("line", css="grid", x1=x, y1=TOP, x2=x, y2=bottom))
        parts.append(svg.label(f"{value:+g}" if value else "0", x=x, y=bottom + 18, css="tick", anchor="middle"))
    parts.append(svg.element("line", css="none", x1=across.at(0), y1=TOP - 6, x2=across.at(0), y2=bottom))
    for number, (pair, value, low, high) in enumerate(drawn):
        y = TOP + _ROW * (number + 0.5)
        css = word(pair) or "same"
        shown = svg.shortened(name_of(pair.metric), characters=20)
        parts.append(svg.label(shown, x=LEFT - 12, y=y + 4, css="name", anchor="end"))
        parts.append(svg.element("line", css=f"span {css}", x1=across.at(low), y1=y, x2=across.at(high), y2=y))
        mark = _SHAPES[word(pair)]
        parts.append(svg.label(mark, x=across.at(value), y=y + 5, css=f"shape {css}", anchor="middle"))
    parts.append(svg.label("percent; points of shares  →", x=RIGHT, y=bottom + 38, css="axis", anchor="end"))
    drawing = svg.drawing(
        parts,
        width=WIDTH,
        height=bottom + 44,
        name=name,
        title=heading,
        description="; ".join(f"{name_of(pair.metric)}: {change(pair)} {word(pair)}".strip() for pair, *_ in drawn),
        css="plot compared",
    )
    return Figure(drawing, heading, "✓ better, ✗ worse, ? undecided: the interval holds no change; ● no verdict.")


def _ends(pair: Pair) -> tuple[float, float, float] | None:
    """Value and interval in percent or points; the interval is the value where there is none."""
    number, none = (pair.ratio, 1.0) if pair.ratio else (pair.difference, 0.0)
    if number is None:
        return None
    ends = (number.value, number.value if number.low is None else number.low)
    high = number.value if number.high is None else number.high
    value, low, high = ((one - none) * 100 for one in (*ends, high))
    return (value, low, high) if all(map(math.isfinite, (value, low, high))) else None
