"""Where a series of numbers changed: hierarchical divisive estimation by energy statistics (E-divisive).

Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data", Journal of the
American Statistical Association 109, 2014. It asks nothing of how the numbers are distributed; each change is tested
by permuting the numbers inside the stretches found so far.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

    Matrix = np.ndarray[tuple[int, int], np.dtype[np.float64]]

LEVEL: Final = 0.01
LEAST: Final = 4
MOST: Final = 100
_PERMUTATIONS: Final = 999


@dataclass(frozen=True, slots=True)
class Split:
    """`index` is the first of the new stretch; `p` the share of permutations that split as well or better. `before` and
    `after` are the medians of the stretches on both sides."""

    index: int
    p: float
    before: float
    after: float


def splits(
    values: Sequence[float],
    *,
    level: float = LEVEL,
    least: int = LEAST,
    permutations: int = _PERMUTATIONS,
    seed: int = 0,
) -> tuple[Split, ...]:
    """The significant changes of a series, in its order; no stretch is shorter than `least`.

    The best split of all stretches is tested, then the best of what that leaves, until one is not significant.
    """
    import numpy as np

    points = np.asarray(values, np.float64)
    apart: Matrix = np.abs(points[:, None] - points[None, :])
    draw = np.random.default_rng(seed)
    edges = [0, len(values)]
    found: dict[int, float] = {}
    while True:
        stretches = [apart[low:high, low:high] for low, high in pairwise(edges)]
        bests = [_best(one, least) for one in stretches]
        strength = max(best for best, _ in bests)
        if strength <= 0:
            break
        p = _p_value(stretches, strength, level, least, permutations, draw)
        if p > level:
            break
        chosen = max(range(len(bests)), key=lambda number: bests[number][0])
        found[edges[chosen] + bests[chosen][1]] = p
        edges = sorted([*edges, edges[chosen] + bests[chosen][1]])
    if not found:
        return ()
    medians = [statistics.median(values[low:high]) for low, high in pairwise(edges)]
    return tuple(
        Split(index, found[index], medians[number], medians[number + 1]) for number, index in enumerate(sorted(found))
    )


def _p_value(
    stretches: Sequence[Matrix], strength: float, level: float, least: int, permutations: int, draw: np.random.Generator
) -> float:
    """The share of permutations, of the numbers within each stretch, whose best split is as strong; it stops counting
    once the share must be above `level`."""
    as_strong = 0
    for done in range(1, permutations + 1):
        best = 0.0
        for one in stretches:
            order = draw.permutation(len(one))
            best = max(best, _best(one[order][:, order], least)[0])
        as_strong += best >= strength * (1 - 1e-9)
        if as_strong + 1 > level * (permutations + 1):
            return (as_strong + 1) / (done + 1)
    return (as_strong + 1) / (permutations + 1)


def _best(apart: Matrix, least: int) -> tuple[float, int]:
    """The strongest split of a stretch by its distances, and where.

    For every split and every end of what comes after it the energy statistic is weighed by the sizes of the sides
    (equation 7 of the paper): an end before the last number lets a change be seen that a later one takes back.
    """
    import numpy as np

    size = len(apart)
    if size < 2 * least:
        return 0.0, 0
    sums = np.zeros((size + 1, size + 1))
    sums[1:, 1:] = apart.cumsum(0).cumsum(1)
    splits_at, ends = np.arange(least, size - least + 1), np.arange(2 * least, size + 1)
    left = sums[splits_at, splits_at][:, None]
    across = sums[np.ix_(splits_at, ends)] - left
    right = sums[ends, ends][None, :] - 2 * across - left
    before = splits_at[:, None].astype(np.float64)
    after = ends[None, :] - before
    legal = after >= least
    after = np.where(legal, after, least)
    energy = 2 * across / (before * after) - left / (before * (before - 1)) - right / (after * (after - 1))
    weighed = np.where(legal, before * after / (before + after) * energy, -np.inf)
    row, column = np.unravel_index(int(weighed.argmax()), weighed.shape)
    return float(weighed[row, column]), int(splits_at[row])
