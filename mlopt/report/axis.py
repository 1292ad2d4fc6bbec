"""Axes: from values to pixels and to round tick marks, for any finite range."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

# Beyond these, arithmetic on the span of an axis could overflow or vanish; no latency or size gets there.
_LARGEST: Final = 1e15
_SMALLEST: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps `low`..`high` onto the pixels `start`..`end` (which may run downwards). What lies outside is clamped."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value, always between `start` and `end`; NaN lies at `start`."""
        if math.isnan(value):
            return self.start
        value = min(max(value, self.low), self.high)
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + min(max(part, 0.0), 1.0) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def ticks(self, *, about: int = 5) -> tuple[float, ...]:
        """Round values inside the axis: 1, 2 or 5 times a power of ten."""
        return _log_ticks(self.low, self.high) if self.log else _even_ticks(self.low, self.high, about)


def fit(values: Iterable[float], *, start: float, end: float, margin: float = 0.08, log_from: float = 8.0) -> Axis:
    """An axis around the finite values with a margin on both sides.

    It is logarithmic when all values are positive and the largest is `log_from` times the smallest or more.
    Values that are NaN, infinite or absurdly large do not count; without any other, the axis runs from 0 to 1.
    """
    known = [value for value in values if abs(value) < _LARGEST]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if low > _SMALLEST and high / low >= log_from:
        factor = (high / low) ** margin
        return Axis(low / factor, high * factor, start, end, log=True)
    span = high - low
    if span <= max(_SMALLEST, 1e-9 * abs(high)):  # all values are one value
        span = abs(high) * 0.2 if abs(high) > _SMALLEST else 1.0
    bottom, top = low - margin * span, high + margin * span
    return Axis(max(bottom, 0.0) if low >= 0 else bottom, top, start, end)


def _even_ticks(low: float, high: float, about: int) -> tuple[float, ...]:
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((power * factor for factor in (1, 2, 5) if power * factor >= rough), power * 10)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return tuple(number * step for number in range(first, min(last, first + 4 * about) + 1))


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = tuple(
        factor * 10.0**power for power in powers for factor in (1, 2, 5) if low <= factor * 10.0**power <= high
    )
    if len(fine) <= 8:
        return fine
    whole = tuple(10.0**power for power in powers if low <= 10.0**power <= high)
    return whole[:: max(1, len(whole) // 8)]
