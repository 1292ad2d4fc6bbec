"""Bounds of percentiles against what MLPerf's own load generator printed, and against seeded samples."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlopt.measure.percentiles import (
    SHOWN,
    least_late,
    most_late,
    percentile,
    percentile_high,
    percentiles_of,
    tail_high,
)


@pytest.mark.parametrize(("queries", "discarded"), [(2048, 172), (2145, 181), (2116, 178), (7469, 685)])
def test_as_many_queries_are_discarded_as_loadgen_discards(queries: int, discarded: int) -> None:
    """From published logs of the single-stream scenario: `Would discard N highest latency queries`."""
    ordered = list(range(queries))
    assert percentile_high(ordered, 90) == ordered[queries - 1 - discarded]


def test_as_few_queries_do_as_mlperf_asks_for() -> None:
    for percent, fewest in ((90, 64), (99, 662)):
        assert percentile_high(list(range(fewest - 1)), percent) is None
        assert percentile_high(list(range(fewest)), percent) == fewest - 1


def test_a_bound_holds_as_often_as_it_says() -> None:
    missed = 0
    for seed in range(400):
        draw = random.Random(seed)
        high = percentile_high(sorted(draw.random() for _ in range(300)), 90)
        assert high is not None
        missed += high < 0.9
    assert missed <= 12  # 4 expected of 400; 13 and more has a chance of 0.02 %


@pytest.mark.parametrize(("percent", "spread"), [(90, 0.05), (90, 0.2), (99, 0.05)])
def test_a_bound_of_a_tail_holds_where_rounds_share_what_disturbs_them(percent: float, spread: float) -> None:
    """Twenty rounds of fifty, each slower as a whole by its own chance; the truth from a million of them."""
    draw = np.random.default_rng(7)

    def rounds(count: int) -> np.ndarray:
        return np.exp(spread * draw.standard_normal((count, 1)) + 0.05 * draw.standard_normal((count, 50)))

    truth = float(np.quantile(rounds(20_000), percent / 100))
    kept = {"by rounds": 0, "by count": 0}
    for _ in range(100):
        taken = rounds(20)
        kept["by rounds"] += tail_high(taken.tolist(), percent) >= truth
        kept["by count"] += (percentile_high(sorted(taken.ravel().tolist()), percent) or 0) >= truth
    assert kept["by rounds"] >= 85, kept
    assert percent == 99 or kept["by rounds"] > kept["by count"] + 10, "as if they were independent: too much promised"


def test_of_too_few_queries_the_slowest_is_the_bound() -> None:
    assert tail_high([[1.0, 2.0], [1.0, 9.0]], 99) == 9.0


def test_both_ends_of_what_may_be_late_agree() -> None:
    for queries in (100, 662, 5000):
        allowed, breaks = most_late(queries, 0.01), least_late(queries, 0.01)
        assert (allowed if allowed is not None else -1) < queries * 0.01 < breaks


def test_all_percentiles_are_told() -> None:
    found = percentiles_of([float(number) for number in range(8000, 0, -1)])
    assert tuple(one.percent for one in found) == SHOWN
    assert [one.value for one in found] == [4000, 6000, 7200, 7600, 7920, 7992]
    assert all(one.high is not None and one.high > one.value for one in found)
    assert [one.high for one in percentiles_of([1.0, 2.0])] == [None] * 6


def test_nearest_rank() -> None:
    assert [percentile([1, 2, 3, 4], p) for p in (0, 25, 26, 50, 100)] == [1, 1, 2, 2, 4]
