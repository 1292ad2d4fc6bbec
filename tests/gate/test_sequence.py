"""The bounds of a median that is looked at after every value: wrong as seldom as they say, and soon enough."""

from __future__ import annotations

import math
import random

import pytest

from mlopt.gate.sequence import Sequence, refuting


def ever_wrong(draw: random.Random, *, error: float, values: int, heavy: bool) -> bool:
    sequence = Sequence(error)
    for _ in range(values):
        noise = draw.gauss(0, 1)
        sequence.add(noise / max(abs(draw.gauss(0, 1)), 1e-3) if heavy else noise)
        if sequence.low > 0 or sequence.high < 0:
            return True
    return False


@pytest.mark.parametrize("heavy", [False, True])
def test_the_true_median_is_hardly_ever_excluded_however_often_one_looks(heavy: bool) -> None:
    draw = random.Random(7)
    wrong = sum(ever_wrong(draw, error=0.05, values=300, heavy=heavy) for _ in range(400))
    assert wrong <= 20, "5 % of 400, looked at 300 times each"


def test_a_fixed_interval_looked_at_as_often_would_be_wrong_far_more_often() -> None:
    """What this guards against: the 95 % interval of the sign test, valid for one look."""
    draw = random.Random(7)
    wrong = 0
    for _ in range(200):
        above = 0
        for count in range(1, 301):
            above += draw.random() > 0.5
            if count >= 10 and abs(above - count / 2) > 1.96 * math.sqrt(count) / 2:
                wrong += 1
                break
    assert wrong > 50


def test_a_shift_of_two_deviations_is_seen_within_twenty_values() -> None:
    draw = random.Random(1)
    for _ in range(50):
        sequence = Sequence(0.01)
        for _ in range(20):
            sequence.add(draw.gauss(2, 0.8))
        assert sequence.side_of(0.0) == "above"
        assert sequence.side_of(10.0) == "below"
        assert sequence.side_of(2.0) == "open"
        assert sequence.low <= sequence.median <= sequence.high


def test_nothing_is_said_before_there_is_evidence() -> None:
    sequence = Sequence(0.01)
    for _ in range(10):
        sequence.add(1.0)
    assert (sequence.low, sequence.high) == (-math.inf, math.inf)
    sequence.add(1.0)
    assert sequence.low == sequence.high == 1.0


def test_bounds_that_exclude_each_other_prove_only_what_lies_beside_both() -> None:
    """A machine that changes its pace for good: 1.0 first, then 0.0."""
    sequence = Sequence(0.01)
    for value in [1.0] * 12 + [0.0] * 80:
        sequence.add(value)
    assert sequence.low > sequence.high
    assert [sequence.side_of(limit) for limit in (-1.0, 0.5, 2.0)] == ["above", "open", "below"]


def test_the_needed_count_grows_slower_than_the_values() -> None:
    shares = [refuting(count, 0.01) / count for count in (20, 100, 1000, 4000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.54
    assert refuting(8, 0.01) == 9, "eight values of eight do not refute at 1 %"
