"""The paired test of answers: exact, and sure to see one point in two thousand."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.gate.answers import Right, check_numbers, compare_answers, mcnemar
from mlopt.gate.result import Check, NotCompared

BINOMIAL = {(0, 0): 1.0, (1, 0): 0.5, (10, 2): 0.019287109375, (20, 20): 0.562685, (3, 9): 0.980712890625}


@pytest.mark.parametrize(("lost", "won"), BINOMIAL)
def test_the_exact_test_is_the_binomial_one(lost: int, won: int) -> None:
    assert mcnemar(lost, won) == pytest.approx(BINOMIAL[lost, won], rel=1e-4)


def right(*, lost: int = 0, won: int = 0, count: int = 2000, seed: int = 0) -> tuple[Right, Right]:
    before = np.random.default_rng(seed).random(count) < 0.8
    after = before.copy()
    after[np.flatnonzero(before)[:lost]] = False
    after[np.flatnonzero(~before)[:won]] = True
    return Right("s", before), Right("s", after)


def check(lost: int, won: int, *, margin: float = 0.005, count: int = 2000) -> Check:
    found = compare_answers(*right(lost=lost, won=won, count=count), margin)
    assert isinstance(found, Check)
    return found


def test_one_point_of_two_thousand_samples_fails() -> None:
    assert check(20, 0).verdict == "fail"
    assert check(35, 15).verdict == "fail"


def test_no_lost_answer_passes_and_says_how_many_samples_it_rests_on() -> None:
    found = check(0, 0)
    assert found.verdict == "pass"
    assert found.note.startswith("0 lost, 0 won of 2000")


def test_few_samples_prove_nothing_and_it_says_how_many_would() -> None:
    found = check(1, 1, count=200)
    assert found.verdict == "inconclusive"
    assert "samples would prove the margin" in found.note


def test_as_many_won_as_lost_is_no_loss() -> None:
    assert check(6, 6).verdict == "pass"
    assert check(40, 40).verdict == "inconclusive", "eighty changed answers leave the upper end above half a point"
    assert check(0, 100).verdict == "pass"


def test_one_point_is_found_below_the_noise_of_answers_that_change_both_ways() -> None:
    """One point of 2000 samples is 20 answers more lost than won."""
    assert all(check(20 + won, won).verdict == "fail" for won in range(21))


def test_chance_alone_fails_in_at_most_one_of_a_hundred() -> None:
    random = np.random.default_rng(5)
    fails = 0
    for _ in range(400):
        before = random.random(2000) < 0.8
        after = np.where(random.random(2000) < 0.02, random.random(2000) < 0.5, before)
        before = np.where(random.random(2000) < 0.02, random.random(2000) < 0.5, before)
        found = compare_answers(Right("s", before), Right("s", after), 0.005)
        assert isinstance(found, Check)
        fails += found.verdict == "fail"
    assert fails <= 4


def test_answers_survive_being_stored() -> None:
    before, _ = right(count=1003)
    again = Right.of(before.stored())
    assert again.samples == "s"
    assert (again.right == before.right).all()


def test_answers_that_are_no_numbers_count_against_what_is_known_of_the_baseline() -> None:
    known = {(one, other): check_numbers(one, other, 9).verdict for one in (0, 2) for other in (0, 1, 2, 3)}
    assert {pair for pair, verdict in known.items() if verdict == "fail"} == {(0, 1), (0, 2), (0, 3), (2, 3)}
    assert set(known.values()) == {"pass", "fail"}
    assert check_numbers(None, 0, 9).verdict == "pass"
    open_ = check_numbers(None, 1, 9)
    assert open_.verdict == "inconclusive"
    assert "other samples" in open_.note


def test_what_cannot_be_paired_is_said() -> None:
    before, after = right()
    assert isinstance(compare_answers(before, None, 0.005), NotCompared)
    assert isinstance(compare_answers(None, after, 0.005), NotCompared)
    other = compare_answers(Right("other", before.right), after, 0.005)
    assert isinstance(other, NotCompared)
    assert "other samples" in other.reason
