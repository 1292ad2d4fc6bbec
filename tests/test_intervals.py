"""Intervals that really cover, and budgets that what is aimed at will likely keep."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlopt.intervals import (
    FEWEST,
    Allowed,
    Changes,
    allowed,
    median_high,
    of_median,
    of_ratio,
    paired_difference,
    proportion,
    samples_needed,
)
from mlopt.profile import Budgets
from mlopt.units import Fraction


@pytest.mark.parametrize(("total", "lost", "won"), [(100, 0.05, 0.05), (400, 0.04, 0.01), (2000, 0.02, 0.02)])
def test_paired_interval_covers(total: int, lost: float, won: float) -> None:
    """The 95 % interval holds the true difference in at least 93 % of 4000 simulated evaluations."""
    draws = np.random.default_rng(7).multinomial(total, [lost, won, 1 - lost - won], size=4000)
    intervals = [paired_difference(int(a), int(b), total) for a, b, _ in draws]
    covered = np.mean([found.low <= lost - won <= found.high for found in intervals])
    assert covered >= 0.93


def test_wilson_matches_the_published_example() -> None:
    found = proportion(81, 263)  # Newcombe 1998, table I: 0.2553 to 0.3662
    assert found.low == pytest.approx(0.2553, abs=5e-5)
    assert found.high == pytest.approx(0.3662, abs=5e-5)


def test_the_upper_end_of_a_median_is_above_the_true_one_in_all_but_a_fortieth() -> None:
    draws = np.random.default_rng(3).exponential(size=(4000, 20))
    missed = np.mean([median_high(one.tolist()) < math.log(2) for one in draws])
    assert 0.01 < missed < 0.035
    assert median_high([3.0, 1.0, 2.0]) == 3.0, "three prove nothing: the largest"
    assert median_high(range(5000)) == pytest.approx(2500 + 1.96 * math.sqrt(5000) / 2, abs=2), "as the normal says"


def test_six_values_bound_a_median_whatever_their_distribution() -> None:
    """At six the largest is below the true median in 1 of 64 draws; five are not enough for 97.5 %."""
    draws = np.random.default_rng(3).exponential(size=(8000, 6))
    found = [of_median(one.tolist()) for one in draws]
    below = np.mean([one.high < math.log(2) for one in found])
    assert below == pytest.approx(1 / 64, abs=0.005)
    assert np.mean([one.low <= math.log(2) <= one.high for one in found]) > 0.95
    assert of_median([1.0] * FEWEST).method.endswith("95 %")
    assert of_median([2.0]).method.endswith(" 0 %")
    assert of_median([2.0]).high == 2.0


@pytest.mark.parametrize(("ones", "others", "error"), [(4, 4, 0.015), (8, 8, 0.01), (6, 4, 0.015)])
def test_a_ratio_is_bounded_at_both_ends(ones: int, others: int, error: float) -> None:
    """Skewed values and a true ratio of 1.05: each end is wrong in no more draws than `error` says."""
    draw = np.random.default_rng(7)
    first = 1.05 * np.exp(0.02 * draw.exponential(size=(6000, ones)))
    second = np.exp(0.02 * draw.exponential(size=(6000, others)))
    found = [of_ratio(one.tolist(), other.tolist(), error=error) for one, other in zip(first, second, strict=True)]
    for wrong in (np.mean([one.low > 0.05 for one in found]), np.mean([one.high < 0.05 for one in found])):
        assert error / 3 < wrong < error * 1.35


def test_the_fewest_values_that_bound_a_ratio() -> None:
    assert of_ratio([2.0] * 3, [1.0] * 3, error=0.015).low == -1.0, "1 order of 20 is more than 1.5 %"
    assert of_ratio([2.0] * 3, [1.0] * 3, error=0.015).high == math.inf
    assert of_ratio([2.0] * 4, [1.0] * 4, error=0.015).low == 1.0, "1 order of 70 is less"


def test_samples_needed() -> None:
    drop = paired_difference(3, 3, 400)
    needed = samples_needed(0.005, drop, 400)
    assert needed is not None
    share = 3 / 400
    assert paired_difference(int(share * needed), int(share * needed), needed).high == pytest.approx(0.005, abs=8e-4)
    assert samples_needed(0.005, paired_difference(30, 3, 400), 400) is None


@pytest.mark.parametrize("lost", [0.01, 0.02, 0.04])
def test_what_is_aimed_at_is_mostly_proven(lost: float) -> None:
    """Find the tightest budget that is allowed for some loss; three of four draws of new samples then prove it.

    The losses that a search aims at were seen on 128 samples, and are drawn here just so.
    """
    generator = np.random.default_rng(5)
    limits = np.linspace(0.005, 0.2, 120)
    proven = []
    for _ in range(200):
        a, b, _ = generator.multinomial(128, [lost, lost, 1 - 2 * lost]) / 128
        error = math.sqrt((a + b) / 128)
        seen = Changes(a + b, error, lost=a, won=b, drop_error=error)
        limit = next(float(limit) for limit in limits if Allowed(500, drop=float(limit)).keeps_answers(seen))
        a, b, _ = generator.multinomial(500, [lost, lost, 1 - 2 * lost])
        proven.append(paired_difference(int(a), int(b), 500).high <= limit)
    assert 0.65 < np.mean(proven) < 0.9


def test_what_is_not_known_well_is_not_let_in() -> None:
    allowed = Allowed(1000, drop=0.013)
    assert allowed.keeps_answers(Changes(0.02, lost=0.01, won=0.01))
    assert not allowed.keeps_answers(Changes(0.02, lost=0.01, won=0.01, drop_error=0.01))
    assert not allowed.keeps_answers(Changes(0.02, 0.02, lost=0.01, won=0.01)), "nor how wide the interval will be"


def test_agreement_is_a_bound_of_its_own() -> None:
    assert Allowed(500, agreement=0.9).keeps_answers(Changes(0.02, 0.01))
    assert not Allowed(500, agreement=0.9).keeps_answers(Changes(0.09))
    assert Allowed(500, agreement=0.9).keeps_answers(Changes(0.06))
    assert not Allowed(500, agreement=0.9).keeps_answers(Changes(0.06, 0.03))


def test_what_budgets_allow() -> None:
    budgets = Budgets(max_drop=Fraction(0.01), min_agreement=Fraction(0.97), min_cosine=Fraction(0.99))
    labelled = allowed(budgets, 400, labelled=True)
    assert (labelled.drop, labelled.agreement, labelled.sqnr) == (0.01, None, None)
    bare = allowed(budgets, 400, labelled=False)
    assert (bare.drop, bare.agreement) == (None, 0.97)
    assert bare.sqnr == pytest.approx(-10 * math.log10(0.02))


def test_too_few_samples_prove_nothing() -> None:
    assert Allowed(50, drop=0.01).hopeless
    assert not Allowed(2000, drop=0.01).hopeless
    assert not Allowed(50).hopeless
