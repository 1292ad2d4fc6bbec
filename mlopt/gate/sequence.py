"""A median bounded while it is being measured: looked at after every value, and still wrong no more often than said."""

from __future__ import annotations

import math
import statistics
from bisect import insort
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

Side = Literal["above", "below", "open"]


@dataclass(slots=True)
class Sequence:
    """A confidence sequence of the median of values that come one by one, with no assumption on their distribution.

    The chance that `low` or `high` is ever on the wrong side of the median, however often one looks and whenever
    one stops, is at most `error` (half of it for each side).

    How: were m the median, each value would fall above it with chance 1/2. Of S among n above m, the evidence
    against m is that of a bet on every other chance at once, 2^n B(S + 1, n - S + 1), the mixture of Robbins (1970,
    Annals of Mathematical Statistics 41), which under m exceeds 1/error ever at most with chance `error` (Ville 1939).
    All m that it refutes lie outside; for quantiles see Howard and Ramdas (2022, "Sequential estimation of quantiles
    with applications to A/B testing and best-arm identification", Bernoulli 28). Values may depend on each other, as
    long as none is more likely above the median than below, given those before it.
    """

    error: float
    values: list[float] = field(default_factory=list)
    low: float = -math.inf
    high: float = math.inf
    _ordered: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """One more value; the bounds only ever come closer."""
        self.values.append(value)
        insort(self._ordered, value)
        needed = refuting(len(self._ordered), self.error)
        if needed <= len(self._ordered):
            # With `needed` values above a point that point is too low to be the median, and the other way round.
            self.low = max(self.low, self._ordered[len(self._ordered) - needed])
            self.high = min(self.high, self._ordered[needed - 1])

    @property
    def median(self) -> float:
        return statistics.median(self._ordered)

    def side_of(self, limit: float) -> Side:
        """Where the median is proven to lie. Bounds that exclude each other show that it moved: then both have to be on
        that side, for it moved between them."""
        if min(self.low, self.high) > limit:
            return "above"
        return "below" if max(self.low, self.high) < limit else "open"


@lru_cache(maxsize=65536)
def refuting(count: int, error: float) -> int:
    """The fewest of `count` values on one side of a point that refute it as the median; `count` + 1 if none do.

    >>> refuting(11, 0.01), refuting(10, 0.01), refuting(400, 0.01)
    (11, 11, 240)
    """
    needed = count // 2 + 1
    while needed <= count and _evidence(count, needed) < -math.log(error):
        needed += 1
    return needed


def _evidence(count: int, above: int) -> float:
    """The logarithm of 2^n B(S + 1, n - S + 1)."""
    beta = math.lgamma(above + 1) + math.lgamma(count - above + 1) - math.lgamma(count + 2)
    return count * math.log(2) + beta
