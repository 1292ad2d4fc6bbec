"""SVG as text: a drawing of escaped elements with a title and a description for those who do not see it."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mlopt.report.text import cleaned

Attribute = str | float


def drawing(
    parts: Sequence[str], *, width: float, height: float, name: str, title: str, description: str, css: str
) -> str:
    """A whole `<svg>`. It scales to its container; colours come from the page's style sheet by class.

    `name` is unique in the page: the ids of title and description are made of it.
    """
    inside = "\n".join(parts)
    return (
        f'<svg class="{_escaped(css)}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-title {name}-description" xmlns="http://www.w3.org/2000/svg">\n'
        f'<title id="{name}-title">{_escaped(title)}</title>\n'
        f'<desc id="{name}-description">{_escaped(description)}</desc>\n'
        f"{inside}\n</svg>"
    )


def element(tag: str, *, css: str = "", title: str = "", **attributes: Attribute) -> str:
    """One empty element; `title` is what a pointer over it shows. `stroke_width` becomes `stroke-width`.

    >>> element("line", css="grid", x1=1.0, x2=2.5)
    '<line class="grid" x1="1" x2="2.5"/>'
    """
    opening = _opening(tag, css, attributes)
    return f"{opening}><title>{_escaped(title)}</title></{tag}>" if title else f"{opening}/>"


def label(text: str, *, x: float, y: float, css: str = "", anchor: str = "start") -> str:
    """One line of text. `anchor`: start, middle or end.

    >>> label("<b>", x=1, y=2)
    '<text x="1" y="2" text-anchor="start">&lt;b&gt;</text>'
    """
    return f"{_opening('text', css, {'x': x, 'y': y, 'text_anchor': anchor})}>{_escaped(text)}</text>"


def path(points: Sequence[tuple[float, float]], *, closed: bool = False) -> str:
    """The `d` of straight lines through points.

    >>> path([(0, 0), (1, 2)], closed=True)
    'M0 0L1 2Z'
    """
    body = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return f"M{body}{'Z' if closed else ''}" if points else ""


def shortened(text: str, *, characters: int) -> str:
    """At most so many characters; the middle goes, because names of recipes differ at both ends.

    >>> shortened("int8-static-per-channel", characters=11)
    'int8-…annel'
    """
    if len(text) <= characters:
        return text
    tail = (characters - 1) // 2
    return f"{text[: characters - 1 - tail]}…{text[len(text) - tail :]}"


def _opening(tag: str, css: str, attributes: dict[str, Attribute]) -> str:
    known = {"class": css, **attributes} if css else dict(attributes)
    written = " ".join(f'{key.replace("_", "-")}="{_value(value)}"' for key, value in known.items())
    return f"<{tag} {written}" if written else f"<{tag}"


def _value(value: Attribute) -> str:
    return _escaped(value) if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return f"{round(value, 1):g}" if abs(value) < 1e5 else f"{value:.0f}"


def _escaped(text: str) -> str:
    """XML holds no control character, not even escaped: one in a name would break the whole drawing."""
    return html.escape(cleaned(text))
