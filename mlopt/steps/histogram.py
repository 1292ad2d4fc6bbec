"""How often a tensor took which value: a histogram of fixed size whose reach grows with the values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

_BLOCK: Final = 1 << 15  # values counted at a time: what they need fits the second-level cache
_SMALLEST: Final = -100  # reaches below 2**-100 are not told apart: no scale of a quantizer is that small


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value to represent exactly; what lies outside is clipped."""

    low: float
    high: float


@dataclass(slots=True)
class Histogram:
    """Counts in `bins` (an even number) equal bins over [-reach, reach]: zero is always an edge.

    Give `reach` where the extremes are known. Without it the reach is the power of two above everything seen:
    when a value lies outside, bins (then a multiple of four) are merged in pairs and the reach doubles, so counts
    stay exact, and depend neither on the order of the samples nor on how the values were batched.
    """

    bins: int
    reach: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    _counts: np.ndarray | None = field(default=None, init=False, repr=False)
    _grows: bool = field(default=False, init=False, repr=False)

    @property
    def counts(self) -> np.ndarray:
        """int64 of shape [bins]."""
        import numpy as np

        return np.zeros(self.bins, dtype=np.int64) if self._counts is None else self._counts[1:-1]

    @property
    def edges(self) -> np.ndarray:
        """float64 of shape [bins + 1], ascending."""
        import numpy as np

        return (np.arange(self.bins + 1) - self.bins // 2) * (2 * self.reach / self.bins)

    def add(self, value: np.ndarray, extremes: Range) -> None:
        """Count finite values, of any shape but not empty; `extremes` are theirs."""
        import numpy as np

        self.low, self.high = min(self.low, extremes.low), max(self.high, extremes.high)
        if self._counts is None:
            self._counts, self._grows = np.zeros(self.bins + 2, dtype=np.int64), not self.reach
            self.reach = self.reach or _reach(extremes)
        while self._grows and self.reach <= max(-extremes.low, extremes.high):
            self._double()
        per_unit = self.bins / (2 * self.reach)
        flat = value.reshape(-1)
        places = np.empty(min(_BLOCK, flat.size))
        found = np.empty(places.size, dtype=np.intp)
        for start in range(0, flat.size, _BLOCK):
            block = flat[start : start + _BLOCK]
            place, index = places[: block.size], found[: block.size]
            # float64, so that a value next to an edge falls on the right side of it.
            np.multiply(block, per_unit, out=place, dtype=np.float64)
            np.floor(place, out=place)
            np.add(place, self.bins // 2 + 1, out=index, casting="unsafe")
            np.add.at(self._counts, index, 1)
        # A value at the upper end belongs to the last bin; one at the lower may be rounded out of the first.
        self._counts[[1, -2]] += self._counts[[0, -1]]
        self._counts[[0, -1]] = 0

    def _double(self) -> None:
        assert self._counts is not None
        quarter = self.bins // 4
        merged = self.counts.reshape(-1, 2).sum(axis=1)
        self._counts[:] = 0
        self.counts[quarter : quarter + merged.size] = merged
        self.reach *= 2


def _reach(extremes: Range) -> float:
    """The power of two above both extremes."""
    most = max(-extremes.low, extremes.high)
    return math.ldexp(1.0, max(_SMALLEST, math.frexp(most)[1]) if most else _SMALLEST)
