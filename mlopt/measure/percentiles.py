"""Percentiles of latency, each with the bound that MLPerf's early stopping gives it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CONFIDENCE: Final = 0.99
_Z: Final = 1.959963984540054
SHOWN: Final = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)


@dataclass(frozen=True, slots=True)
class Percentile:
    """`value` is nearest rank; `high` is not exceeded by the true percentile at 99 % confidence, None of too few
    queries. It takes queries as independent of each other, as MLPerf does."""

    percent: float
    value: float
    high: float | None


def percentiles_of(samples: Sequence[float]) -> tuple[Percentile, ...]:
    ordered = sorted(samples)
    return tuple(Percentile(one, percentile(ordered, one), percentile_high(ordered, one)) for one in SHOWN)


def percentile(ordered: Sequence[float], p: float) -> float:
    """The smallest sample with at least `p` percent of the samples at or below it (nearest rank).

    >>> percentile([1, 2, 3, 4], 50)
    2
    """
    rank = math.ceil(round(p * len(ordered) / 100, 9))  # 99.9 % of 5000 is 4995, whatever binary fractions make of it
    return ordered[max(0, rank - 1)]


def percentile_high(ordered: Sequence[float], p: float) -> float | None:
    """The early-stopping estimate of MLPerf Inference: the smallest sample that, were it the limit, would have passed.

    >>> percentile_high(list(range(64)), 90), percentile_high(list(range(63)), 90)
    (63, None)
    """
    late = most_late(len(ordered), 1 - p / 100)
    return ordered[len(ordered) - late] if late else None


def tail_high(rounds: Sequence[Sequence[float]], p: float) -> float:
    """The upper end of a percentile's 95 % interval, of queries that came in rounds.

    Queries of one round share what disturbs them, so it is the rounds that vary: the share of slower queries in each
    has a mean with a standard error, and the percentile is read as much higher (Woodruff, *Confidence intervals for
    medians and other position measures*, JASA 47, 1952, for clusters). Where rounds are alike chance alone still leaves
    what early stopping says, or the slowest of too few for that. The larger of the two.
    """
    ordered = sorted(second for seconds in rounds for second in seconds)
    value, by_count = percentile(ordered, p), percentile_high(ordered, p)
    shares = [sum(second > value for second in seconds) / len(seconds) for seconds in rounds]
    error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else math.inf
    by_rounds = percentile(ordered, min(100.0, p + 100 * _student(len(shares) - 1) * error))
    return max(by_rounds, ordered[-1] if by_count is None else by_count)


def _student(freedom: int) -> float:
    """Student's t for 95 %, two-sided, by the first term of its expansion: 2.08 of 19, where it is 2.09."""
    return _Z + (_Z**3 + _Z) / (4 * max(1, freedom))


def most_late(queries: int, share: float) -> int | None:
    """How many of the queries may exceed a limit so that less than `share` of all do, at 99 % confidence; None where
    not even none would prove it.

    >>> most_late(2048, 0.1), most_late(458, 0.01), most_late(459, 0.01)
    (173, None, 0)
    """
    chance, found = 0.0, None
    for late in range(queries + 1):
        chance += _exactly(late, queries, share)
        if chance > 1 - CONFIDENCE:
            break
        found = late
    return found


def least_late(queries: int, share: float) -> int:
    """From how many late ones on more than `share` of all are, at 99 % confidence.

    >>> least_late(1000, 0.01)
    19
    """
    below = 0.0
    for late in range(queries + 1):
        if 1 - below <= 1 - CONFIDENCE:
            return late
        below += _exactly(late, queries, share)
    return queries + 1


def _exactly(count: int, total: int, share: float) -> float:
    """The binomial probability, by logarithms: 5000 queries would overflow."""
    ways = math.lgamma(total + 1) - math.lgamma(count + 1) - math.lgamma(total - count + 1)
    return math.exp(ways + count * math.log(share) + (total - count) * math.log1p(-share))
