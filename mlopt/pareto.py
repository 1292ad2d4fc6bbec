"""Which candidates no other beats or equals on accuracy, latency and size at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlopt.choose import Judged


def pareto(judged: Sequence[Judged]) -> tuple[str, ...]:
    """Names of those that no other beats or equals on accuracy, latency and size at once."""
    points = {one.name: _point(one) for one in judged if one.accuracy}
    return tuple(
        name
        for name, point in points.items()
        if not any(_dominates(other, point) for key, other in points.items() if key != name)
    )


def _point(judged: Judged) -> tuple[float, float, float]:
    accuracy = judged.accuracy
    assert accuracy
    quality = accuracy.top1 if accuracy.top1 is not None else accuracy.cosine
    latency = 1 / judged.measurement.speedup.value if judged.measurement else 0.0
    return (-quality, latency, judged.file_size)


def _dominates(one: tuple[float, float, float], other: tuple[float, float, float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other
