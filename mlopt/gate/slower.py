"""Which layers of a candidate that is slower take longer than the baseline's: to look at, no verdict comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mlopt.gate.result import NotCompared, Slower
from mlopt.measure.inside import look_inside
from mlopt.report.layers import parts_of
from mlopt.report.sides import Side

if TYPE_CHECKING:
    from mlopt.insight import Layers
    from mlopt.measure.alone import Given
    from mlopt.measure.interleave import Subject

_MOST: Final = 5
_LITTLE: Final = 0.01  # of the worst: what profilers make of themselves


def slower_layers(
    candidate: Subject, baseline: Subject, given: Given, *, batch: int, device: str
) -> tuple[Slower, ...] | NotCompared:
    """The layers that take most more, the worst first, each matched with those that hold the same nodes."""
    both = []
    for subject, side in ((baseline, Side("baseline", "baseline")), (candidate, Side("candidate", "ships"))):
        threads = given.method.threads
        found = look_inside(subject, given.single, threads=threads, batch=batch, device=device)
        if found.layers is None:
            return NotCompared("layers", f"{subject.name}: {found.why_not}")
        both.append((side, found.layers))
    longer = sorted(_longer(both), key=lambda one: one.baseline - one.candidate)
    least = _LITTLE * max((one.candidate - one.baseline for one in longer), default=0.0)
    return tuple(one for one in longer[:_MOST] if one.candidate - one.baseline >= least)


def _longer(both: list[tuple[Side, Layers]]) -> Iterator[Slower]:
    for part in parts_of(both):
        before, now = (amount.seconds if amount else 0.0 for amount in part.amounts)
        if part.nodes and now > before:
            yield Slower(part.name, part.holds, before, now)
