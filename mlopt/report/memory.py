"""The plot of memory over time: what a process of its own holds while the model is loaded, answers once, and runs."""

from __future__ import annotations

from typing import Final

from mlopt.insight import MemoryTrace
from mlopt.report import svg, text
from mlopt.report.axis import Axis, fit
from mlopt.report.plots import Figure
from mlopt.report.report import Report
from mlopt.report.sides import Side, anatomies

WIDTH, HEIGHT = 600.0, 330.0
LEFT, RIGHT, TOP, BOTTOM = 64.0, WIDTH - 34.0, 30.0, HEIGHT - 50.0
_BEFORE: Final = 0.08  # of the time after, that is shown of the time before the model was opened
_WORDS: Final = {"imported": "opened", "loaded": "loaded", "answered": "first answer", "done": ""}


def memory_plot(report: Report) -> Figure:
    title = "Memory over time"
    traces = [(side, one.memory) for side, one in anatomies(report) if one.memory and one.memory.seconds]
    if not traces:
        return Figure("", title, "Memory was not watched.")
    last = max(trace.seconds[-1] - _opened(trace) for _, trace in traces)
    across = Axis(-_BEFORE * last, last * 1.02, LEFT, RIGHT)
    up = fit([0.0, *(float(held) for _, trace in traces for held in trace.resident)], start=BOTTOM, end=TOP)
    parts = _grid(across, up)
    for side, trace in traces:
        parts += _line(side, trace, across, up)
    drawing = svg.drawing(
        parts,
        width=WIDTH,
        height=HEIGHT,
        name="memory",
        title=title,
        description="; ".join(said(side.name, trace) for side, trace in traces),
        css="plot memory",
    )
    return Figure(drawing, title, _caption(traces))


def held_at(trace: MemoryTrace, moment: float) -> int:
    """The most that was read by then, since the mark before is what a reader compares with."""
    return max((held for at, held in zip(trace.seconds, trace.resident, strict=True) if at <= moment), default=0)


def said(name: str, trace: MemoryTrace) -> str:
    marks = dict(trace.marks)
    held = {mark: text.size(held_at(trace, marks[mark])) for mark in marks}
    return (
        f"{name}: {held['imported']} before the model was opened, {held['loaded']} when it was loaded, "
        f"{held['answered']} after the first answer, {held['done']} at the end"
    )


def _opened(trace: MemoryTrace) -> float:
    return dict(trace.marks)["imported"]


def _grid(across: Axis, up: Axis) -> list[str]:
    parts = [svg.element("rect", css="frame", x=LEFT, y=TOP, width=RIGHT - LEFT, height=BOTTOM - TOP)]
    for value in across.ticks(about=6):
        x = across.at(value)
        parts.append(svg.element("line", css="grid", x1=x, y1=TOP, x2=x, y2=BOTTOM))
        shown = "0" if abs(value) < 1e-12 else text.rounded(text.seconds(value))
        parts.append(svg.label(shown, x=x, y=BOTTOM + 18, css="tick", anchor="middle"))
    for value in up.ticks(about=5):
        y = up.at(value)
        parts.append(svg.element("line", css="grid", x1=LEFT, y1=y, x2=RIGHT, y2=y))
        parts.append(svg.label(text.rounded(text.size(value)), x=LEFT - 8, y=y + 4, css="tick", anchor="end"))
    parts.append(svg.label("↑ resident memory of the process", x=LEFT, y=TOP - 12, css="axis"))
    parts.append(svg.label("time since the model was opened  →", x=RIGHT, y=BOTTOM + 40, css="axis", anchor="end"))
    return parts


def _line(side: Side, trace: MemoryTrace, across: Axis, up: Axis) -> list[str]:
    start = _opened(trace)
    shown = [
        (at - start, held) for at, held in zip(trace.seconds, trace.resident, strict=True) if across.holds(at - start)
    ]
    parts = [svg.element("path", css=f"line {side.css}", d=svg.path([(across.at(x), up.at(y)) for x, y in shown]))]
    for mark, at in trace.marks:
        if across.holds(at - start):
            y = up.at(held_at(trace, at))
            title = f"{side.name}: {_WORDS[mark] or 'done'}, {text.size(held_at(trace, at))}"
            parts.append(svg.element("circle", css=f"dot {side.css}", cx=across.at(at - start), cy=y, r=4, title=title))
    return parts


def _caption(traces: list[tuple[Side, MemoryTrace]]) -> str:
    whole = " ".join(f"{said(side.name, trace)}." for side, trace in traces)
    return (
        f"Dots: opened, loaded, first answer, done. {whole} Read from outside every few milliseconds; a peak between "
        "two readings is in the table, not here."
    )
