"""The inside of one model as a terminal shows it: the layers that take most, and what was held in memory."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Final

from mlopt.insight import Anatomy, Layer, Layers
from mlopt.report import svg, text
from mlopt.report.layers import holds, name_of, total
from mlopt.report.memory import said

_TOP: Final = 10
_NAME: Final = 40


def inside_text(name: str, inside: Anatomy, *, width: int) -> list[str]:
    """Lines no wider than `width`, as far as names allow."""
    lines = list(_layers(name, inside.layers, width)) if inside.layers else []
    if inside.why_not:
        lines += textwrap.wrap(f"no times of layers of {name}: {inside.why_not}", width)
    if inside.memory:
        lines += textwrap.wrap(f"memory of {said(name, inside.memory)}", width, subsequent_indent="  ")
    return lines


def _layers(name: str, layers: Layers, width: int) -> Iterator[str]:
    whole = total(layers)
    head = (
        f"layers of {name} in {layers.runtime}: {len(layers.layers)} take {text.seconds(whole)} of the "
        f"{text.seconds(layers.seconds)} of a query under its profiler"
    )
    yield from textwrap.wrap(head, width, subsequent_indent="  ")
    ordered = sorted(layers.layers, key=lambda layer: -layer.seconds)
    column = min(_NAME, max(len(name_of(layer)) for layer in ordered[:_TOP]))
    for layer in ordered[:_TOP]:
        shown = svg.shortened(name_of(layer), characters=column)
        line = f"  {_share(layer.seconds, whole)}  {shown:<{column}}  {holds(layer)}"
        speed = _speed(layer)
        room = width - len(speed) - 2
        yield f"{svg.shortened(line, characters=room):<{room}}  {speed}".rstrip()
    if rest := ordered[_TOP:]:
        yield f"  {_share(sum(layer.seconds for layer in rest), whole)}  {len(rest)} others"


def _share(seconds: float, whole: float) -> str:
    return f"{text.percent(seconds / whole if whole else None):>7}  {text.seconds(seconds):>7}"


def _speed(layer: Layer) -> str:
    if not layer.operations or not layer.seconds:
        return ""
    return f"{text.speed(layer.operations / layer.seconds)} {layer.arithmetic}"
