"""Names beside the circles of a plot, placed so that they cover neither each other nor a circle if that can be.

Where circles crowd, a name moves away from its own, and a thin line leads back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from mlopt.report import svg

_CHARACTER: Final = 6.9  # pixels that an average character takes at the size of the style sheet
_LINE: Final = 15.0
_LONGEST: Final = 30
_RINGS: Final = 7  # how many lines away a name may move
_FAR: Final = 40.0  # what a line of distance is worth, in pixels of anything covered …
_NAME: Final = 8.0  # … and how much worse a pixel of another name is


@dataclass(frozen=True, slots=True)
class Named:
    """A circle that wants its name beside it."""

    name: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)


def placed(
    circles: Sequence[Named],
    *,
    left: float,
    right: float,
    top: float,
    bottom: float,
    winner: str,
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]] = (),
) -> list[str]:
    """A text element for each circle, and lines to those that lie apart, wholly inside the frame.

    The name of the winner is placed first.

    `lines` are upright or level strokes that a name should not cross either.
    """
    frame = _Box(left, top, right, bottom)
    taken = [_Box(one.x - one.radius, one.y - one.radius, one.x + one.radius, one.y + one.radius) for one in circles]
    for (x1, y1), (x2, y2) in lines:
        taken.append(_Box(min(x1, x2) - 2, min(y1, y2) - 2, max(x1, x2) + 2, max(y1, y2) + 2))
    names: list[_Box] = []
    leads, parts = [], []
    for one in sorted(circles, key=lambda one: (not one.name.startswith("★"), one.y, one.x)):
        shown = svg.shortened(one.name, characters=_LONGEST)
        ring, box = min(
            _places(one, len(shown) * _CHARACTER, frame),
            key=lambda place: place[0] * _FAR + _crowding(place[1], taken) + _NAME * _crowding(place[1], names),
        )
        names.append(box)
        if ring:
            leads.append(_lead(one, box))
        css = "name ships" if one.name == f"★ {winner}" else "name"
        parts.append(svg.label(shown, x=(box.left + box.right) / 2, y=box.bottom - 4, css=css, anchor="middle"))
    return [*leads, *parts]


def _lead(one: Named, box: _Box) -> str:
    """From the middle of the circle to the nearest edge of its name."""
    x, y = min(max(one.x, box.left), box.right), min(max(one.y, box.top + 2), box.bottom - 2)
    return svg.element("line", css="lead", x1=one.x, y1=one.y, x2=x, y2=y)


def _crowding(box: _Box, taken: Sequence[_Box]) -> float:
    return sum(box.overlap(other) for other in taken)


def _places(one: Named, width: float, frame: _Box) -> Iterator[tuple[int, _Box]]:
    """Beside, above, below and at the corners, in rings around the circle, each pushed back into the frame."""
    for ring in range(_RINGS):
        for box in _around(one, width, one.radius + 5 + ring * _LINE, frame):
            yield ring, box


def _around(one: Named, width: float, gap: float, frame: _Box) -> Iterator[_Box]:
    half, slant = width / 2, gap * 0.75
    for x, y in (
        (one.x + gap + half, one.y),
        (one.x - gap - half, one.y),
        (one.x, one.y - gap - _LINE / 2),
        (one.x, one.y + gap + _LINE / 2),
        (one.x + slant + half, one.y - slant - 4),
        (one.x + slant + half, one.y + slant + 4),
        (one.x - slant - half, one.y - slant - 4),
        (one.x - slant - half, one.y + slant + 4),
    ):
        x = min(max(x, frame.left + half + 2), frame.right - half - 2)
        y = min(max(y, frame.top + _LINE / 2 + 2), frame.bottom - _LINE / 2 - 2)
        yield _Box(x - half, y - _LINE / 2, x + half, y + _LINE / 2)
