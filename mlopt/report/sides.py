"""The baseline and what ships, beside each other: which they are, and how each is drawn, never by colour alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlopt.insight import Anatomy
from mlopt.report.report import Report


@dataclass(frozen=True, slots=True)
class Side:
    """`css` is baseline or ships; a baseline that ships is the only side, and is drawn as what ships."""

    name: str
    css: str

    @property
    def label(self) -> str:
        return f"★ {self.name}" if self.css == "ships" else self.name


def sides_of(report: Report) -> tuple[Side, ...]:
    """The baseline first; one where it ships itself, none where nothing could be made."""
    found = tuple(_sides(report))
    return found[-1:] if len(found) > 1 and found[0].name == found[1].name else found


def _sides(report: Report) -> Iterator[Side]:
    for name, css in ((report.baseline, "baseline"), (report.winner, "ships")):
        if any(candidate.name == name and not candidate.failure for candidate in report.candidates):
            yield Side(name, css)


def anatomies(report: Report) -> tuple[tuple[Side, Anatomy], ...]:
    """The sides whose inside was looked at."""
    insight = report.insight
    found = ((side, insight.of(side.name)) for side in sides_of(report)) if insight else ()
    return tuple((side, anatomy) for side, anatomy in found if anatomy is not None)
