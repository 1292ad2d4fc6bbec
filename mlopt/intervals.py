"""What a number of samples can prove: intervals of proportions, and how many disagreements a budget leaves room for."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlopt.measurement import Interval

if TYPE_CHECKING:
    from mlopt.profile import Budgets

FEWEST: Final = 6
"""Values of which the largest is above the median in all but 2.5 % of cases: 1 of 64 are all below it."""
_Z: Final = 1.959963984540054  # two-sided 95 % of the normal distribution
_LIKELY: Final = 0.75  # what is aimed at the bound itself misses it every other time
_CAUTION: Final = statistics.NormalDist().inv_cdf(_LIKELY)
_SURE: Final = 1.6448536269514722  # one-sided 95 %


def paired_difference(only_baseline: float, only_candidate: float, total: int) -> Interval:
    """Accuracy lost, baseline minus candidate, from the discordant pairs, with its 95 % interval.

    The adjusted Wald interval of Bonett and Price (2012, "Adjusted Wald confidence interval for a
    difference of binomial proportions based on paired data"), which covers well at small counts.

    >>> paired_difference(0, 0, 1000).value
    0.0
    """
    lost, won = (only_baseline + 1) / (total + 2), (only_candidate + 1) / (total + 2)
    half = _Z * math.sqrt((lost + won - (lost - won) ** 2) / (total + 2))
    value = (only_baseline - only_candidate) / total
    centre = lost - won
    return Interval(value, centre - half, centre + half, "Bonett-Price adjusted Wald, paired, 95 %")


def proportion(successes: float, total: int) -> Interval:
    """A proportion with Wilson's 95 % score interval (1927).

    >>> round(proportion(95, 100).low, 3)
    0.888
    """
    share, z2 = successes / total, _Z * _Z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total * total)) / (1 + z2 / total)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), "Wilson score, 95 %")


def median_high(values: Sequence[float]) -> float:
    """The upper end of a median's two-sided 95 % interval, from order statistics; of fewer than six the largest.

    >>> median_high(range(1, 21))
    15
    """
    ordered, count = sorted(values), len(values)
    rank, ways, below = 0, 1, 1
    # Each value is below the true median with the chance of a coin's side; all up to this rank are in 2.5 % of cases.
    # In whole numbers: past a thousand values their chances are below what a float can hold.
    while rank < count and 40 * below < 39 * 2**count:
        ways = ways * (count - rank) // (rank + 1)
        rank, below = rank + 1, below + ways
    return ordered[min(rank, count - 1)]


def of_median(values: Sequence[float]) -> Interval:
    """The median with an interval from order statistics, whatever the distribution: two-sided 95 % of `FEWEST` values
    or more; of fewer from the smallest to the largest, which is less sure, as `method` says.

    >>> of_median([3.0, 1.0, 2.0])
    Interval(value=2.0, low=1.0, high=3.0, method='order statistics, 75 %')
    """
    low, high = -median_high([-value for value in values]), median_high(values)
    sure = 95 if len(values) >= FEWEST else 100 * (1 - 0.5 ** (len(values) - 1))
    return Interval(statistics.median(values), low, high, f"order statistics, {sure:.3g} %")


def of_ratio(ones: Sequence[float], others: Sequence[float], *, error: float) -> Interval:
    """By what share `ones` are larger than `others`, of which they are a multiple but for chance: the median of all
    ratios, and the interval that the test of Mann and Whitney (1947) does not refute, with `error` for each side.

    >>> of_ratio([2.0, 2.2], [1.0, 1.1], error=0.2).low > 0.8
    True
    """
    ratios = sorted(one / other - 1 for one in ones for other in others)
    cut = _cut(len(ones), len(others), error)
    low, high = (ratios[cut - 1], ratios[-cut]) if cut else (-1.0, math.inf)
    return Interval(statistics.median(ratios), low, high, f"Mann-Whitney, {100 * (1 - 2 * error):.3g} %")


def _cut(ones: int, others: int, error: float) -> int:
    """How many of the ordered ratios may be left out at each end.

    So many orders of all the values (the coefficients of a Gaussian binomial) have fewer than that on the other side.
    """
    total = ones * others
    ways = [1] + [0] * total
    for part in range(1, others + 1):
        for at in range(total, ones + part - 1, -1):
            ways[at] -= ways[at - ones - part]
        for at in range(part, total + 1):
            ways[at] += ways[at - part]
    sums = itertools.accumulate(ways)
    allowed = error * math.comb(ones + others, others)
    return sum(1 for _ in itertools.takewhile(lambda orders: orders <= allowed, sums))


def queries_needed(percent: float) -> int:
    """Of how many the slowest is no less than the percentile, at 99 % confidence.

    >>> queries_needed(90), queries_needed(99)
    (44, 459)
    """
    return math.ceil(math.log(0.01) / math.log(percent / 100))


def samples_needed(limit: float, drop: Interval, total: int) -> int | None:
    """About how many samples would prove `drop` to be below `limit`, were it to stay as it is; None if never."""
    room = limit - drop.value
    half = (drop.high - drop.low) / 2
    return math.ceil(total * (half / room) ** 2) if room > 0 else None


@dataclass(frozen=True, slots=True)
class Changes:
    """Expected shares of answers.

    `flips` change their arg-max; with labels, `lost` turn from right to wrong and `won` from wrong to right. Those are
    estimates from samples: `flips_error` and `drop_error` are the standard errors of `flips` and of `lost - won`.
    """

    flips: float
    flips_error: float = 0.0
    lost: float | None = None
    won: float | None = None
    drop_error: float = 0.0


NO_CHANGES: Final = Changes(0.0, lost=0.0, won=0.0)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What answers may lose so that the budgets will likely (3 of 4) be proven on `samples` samples.

    `drop` bounds accuracy lost, `agreement` the share of equal answers, as fractions; `sqnr` in decibel. None asks
    for nothing.
    """

    samples: int
    drop: float | None = None
    agreement: float | None = None
    sqnr: float | None = None

    def keeps_answers(self, expected: Changes) -> bool:
        """Whether these expected changes of answers will likely leave the bounds inside.

        >>> Allowed(342, drop=0.03).keeps_answers(Changes(0.06, lost=0.01, won=0.01))
        True
        >>> Allowed(342, drop=0.01).keeps_answers(Changes(0.06, lost=0.01, won=0.01))
        False
        """
        return self.chance(expected) >= _LIKELY

    def chance(self, expected: Changes) -> float:
        """How likely the bounds will be found inside.

        What is expected was itself seen on few samples: both its error and the chance of the `samples` to come count.
        """
        chances = [1.0]
        if self.drop is not None and expected.lost is not None and expected.won is not None:
            chances.append(_below(self.drop, *self._drop(expected.lost, expected.won, expected)))
        if self.agreement is not None:
            bound, unsure = self._agreement(expected)
            chances.append(_below(-self.agreement, -bound, unsure))
        return min(0.0 if math.isnan(chance) else chance for chance in chances)

    def drop_for(self, expected: Changes) -> float | None:
        """The smallest bound on accuracy lost that would let these expected changes in; None without labels."""
        if expected.lost is None or expected.won is None:
            return None
        bound, unsure = self._drop(expected.lost, expected.won, expected)
        return bound + _CAUTION * unsure

    def agreement_for(self, expected: Changes) -> float:
        """The largest bound on equal answers that would."""
        bound, unsure = self._agreement(expected)
        return bound - _CAUTION * unsure

    def _drop(self, lost: float, won: float, expected: Changes) -> tuple[float, float]:
        """The bound that is expected, and its standard error."""
        bound = paired_difference(lost * self.samples, won * self.samples, self.samples).high
        # How wide the interval will be is as uncertain as the answers that change are, by half.
        at, off = ((share * self.samples + 1) / (self.samples + 2) for share in (lost, won))
        more = (lost + won) * expected.flips_error / expected.flips if expected.flips else 0.0
        wide = (bound - at + off) / 2 * more / (at + off)
        return bound, math.sqrt((lost + won) / self.samples + expected.drop_error**2 + wide**2)

    def _agreement(self, expected: Changes) -> tuple[float, float]:
        bound = proportion((1 - expected.flips) * self.samples, self.samples).low
        return bound, math.sqrt(expected.flips * (1 - expected.flips) / self.samples + expected.flips_error**2)

    def decibel_for(self, spread: float, seen: int) -> float:
        """How much SQNR has to be to spare where it was seen on so few samples, whose noise has this `spread` (standard
        deviation over mean): 95 of 100, for noise that is too loud costs all that was made, and a decibel little.

        >>> round(Allowed(32, sqnr=25.0).decibel_for(0.33, 32), 2)
        0.55
        """
        return 10 * math.log10(1 + _SURE * spread * math.sqrt(1 / self.samples + (1 / seen if seen else 0.0)))

    @property
    def hopeless(self) -> bool:
        """Whether so few samples prove the budgets for no model that changes any answer."""
        return not self.keeps_answers(NO_CHANGES)


def allowed(budgets: Budgets, samples: int, *, labelled: bool) -> Allowed:
    """`max_drop` is judged with labels, `min_agreement` and `min_cosine` without, `min_sqnr` always."""
    least = [] if budgets.min_sqnr is None else [float(budgets.min_sqnr)]
    if not labelled and budgets.min_cosine is not None and budgets.min_cosine < 1:
        # For noise that is independent of the signal: cosine = 1 - noise / (2 signal), to first order.
        least.append(-10 * math.log10(2 * (1 - budgets.min_cosine)))
    return Allowed(
        samples,
        drop=budgets.max_drop if labelled else None,
        agreement=None if labelled else budgets.min_agreement,
        sqnr=max(least, default=None),
    )


def _below(limit: float, value: float, error: float) -> float:
    """The chance that what is `value`, with this standard error, is at most `limit`."""
    return statistics.NormalDist(value, error).cdf(limit) if error else float(value <= limit)
