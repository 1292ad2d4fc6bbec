"""What few samples tell of many: flips and drops expected from crossed noise come true on samples never seen."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mlopt.intervals import Allowed, Changes
from mlopt.precision.expected import Exact
from mlopt.precision.noise import Noise

CLASSES = 50


def answered(
    count: int, seed: int, strength: float, *, sleeping: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, the same with noise, and labels of which the scores know two thirds. `sleeping`, scores and their noise
    end in a ReLU: most classes are at 0 with and without noise."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    scores = generator.standard_normal((count, CLASSES)) + 3.0 * np.eye(CLASSES)[labels]
    noisy = scores + strength * generator.standard_normal(scores.shape)
    if sleeping:
        scores, noisy = np.maximum(scores - 1, 0), np.where(scores > 1, np.maximum(noisy - 1, 0), 0)
    return scores.astype(np.float32), noisy.astype(np.float32), labels


def changes(scores: np.ndarray, noisy: np.ndarray, labels: np.ndarray | None = None, *, scale: float = 1.0) -> Changes:
    exact = Exact.of(scores, labels)
    assert exact
    return exact.changes(noisy, scale=scale)


@pytest.mark.parametrize("sleeping", [False, True])
@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_crossing_is_right_on_average_and_surer_than_counting(strength: float, *, sleeping: bool) -> None:
    many, noisy_many, truth = answered(100_000, 99, strength, sleeping=sleeping)
    before, after = many.argmax(axis=1), noisy_many.argmax(axis=1)
    crossed, counted, said = [], [], []
    for seed in range(100):
        scores, noisy, labels = answered(64, seed, strength, sleeping=sleeping)
        expected = changes(scores, noisy, labels)
        assert expected.lost is not None
        assert expected.won is not None
        crossed.append((expected.flips, expected.lost, expected.won, expected.lost - expected.won))
        said.append((expected.flips_error, expected.drop_error))
        counted.append(float((scores.argmax(axis=1) != noisy.argmax(axis=1)).mean()))
    flips, lost, won, drop = np.transpose(crossed)
    assert np.mean(flips) == pytest.approx(float((before != after).mean()), rel=0.15)
    assert np.mean(lost) == pytest.approx(float(((before == truth) & (after != truth)).mean()), rel=0.2)
    assert np.mean(won) == pytest.approx(float(((before != truth) & (after == truth)).mean()), rel=0.2)
    assert np.std(flips) < 0.8 * np.std(counted)
    errors = np.mean(said, axis=0)
    assert 0.7 * np.std(flips) < errors[0] < 1.5 * np.std(flips), "as sure as is said"
    assert 0.7 * np.std(drop) < errors[1] < 2.5 * np.std(drop), "surer by no more than the floor for one more trial"


@pytest.mark.parametrize("strength", [0.01, 0.3, 3.0, math.inf])
def test_classes_that_are_not_looked_at_change_nothing(strength: float) -> None:
    """Every noise on every sample, place by place, counts the same."""
    scores, noisy, labels = answered(48, 6, min(strength, 1.0))
    if math.isinf(strength):
        noisy[3, 7] = math.inf
        noisy[5] = math.nan
    scale = strength if strength < 1 else 1.0
    found = changes(scores, noisy, labels, scale=scale)
    order = np.argsort(-scores, axis=1, kind="stable")
    ahead = np.take_along_axis(scores, order, 1)
    apart = np.take_along_axis((noisy - scores) * np.float32(scale), order, 1)
    now = np.stack([(ahead + one).argmax(axis=1) for one in apart], axis=1)
    broken = ~np.isfinite(apart).all(axis=1)
    flips = (now != 0) | broken
    assert found.flips == flips.sum() / 48**2
    exact = Exact.of(scores, labels)
    assert exact
    assert exact.belief is not None
    chances = exact.belief[np.arange(48)[:, None], now]
    assert found.lost == pytest.approx((flips * exact.belief[:, :1]).sum() / 48**2)
    assert found.won == pytest.approx(((flips & ~broken) * chances).sum() / 48**2)


def test_more_noise_changes_more() -> None:
    scores, noisy, labels = answered(64, 4, 0.2)
    flips = [changes(scores, noisy, labels, scale=scale).flips for scale in (0.0, 0.5, 1.0, 2.0)]
    assert flips[0] == 0
    assert flips == sorted(flips)
    assert len(set(flips)) == 4


def test_probabilities_are_compared_as_scores() -> None:
    scores, noisy, labels = answered(128, 5, 0.2)

    def softmax(x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)

    one, other = changes(scores, noisy, labels), changes(softmax(scores), softmax(noisy), labels)
    assert other.flips == pytest.approx(one.flips, rel=0.2)


@pytest.mark.parametrize("times", [0.01, 1.0, 30.0])
def test_belief_is_the_one_that_labels_were_drawn_from(times: float) -> None:
    """Whatever the scores are a multiple of."""
    generator = np.random.default_rng(1)
    scores = 2 * generator.standard_normal((256, 10))
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = np.array([generator.choice(10, p=row) for row in chances])
    found = Exact.of((times * scores).astype(np.float32), labels)
    assert found
    assert found.belief is not None
    assert found.belief == pytest.approx(-np.sort(-chances, axis=1), abs=0.06)


def test_a_model_that_is_always_right_is_not_believed_without_limit() -> None:
    scores, _, _ = answered(64, 2, 0.1)
    found = Exact.of(scores, scores.argmax(axis=1))
    assert found
    assert found.belief is not None
    close = (found.ahead[:, 0] - found.ahead[:, 1]).argmin()
    assert found.belief[close, 1] > 0.1, "of a tie nobody knows"
    assert found.belief[:, 0].mean() > 0.9


def test_labels_that_scores_know_nothing_of_leave_chances_alike() -> None:
    scores, _, _ = answered(256, 3, 0.1)
    found = Exact.of(scores, scores.argmin(axis=1))
    assert found
    assert found.belief is not None
    assert found.belief == pytest.approx(np.full_like(found.belief, 1 / CLASSES), rel=1e-3)


def test_noise_of_a_few_samples_is_tried_on_all() -> None:
    scores, noisy, labels = answered(128, 7, 0.3)
    few, every = changes(scores, noisy[:16], labels), changes(scores, noisy, labels)
    assert few.flips == pytest.approx(every.flips, rel=0.3)
    assert few.flips_error > every.flips_error


def test_one_sample_proves_nothing() -> None:
    scores, _, labels = answered(1, 8, 0.1)
    assert not Allowed(1000, drop=0.1).keeps_answers(changes(scores, scores, labels))
    assert not Allowed(1000, agreement=0.9).keeps_answers(changes(scores, scores))


def test_what_is_no_classifier_has_no_flips() -> None:
    assert Exact.of(np.ones((2, 3, 4, 4), np.float32)) is None
    assert Exact.of(np.ones((2, 1), np.float32)) is None


@pytest.mark.parametrize("labelled", [True, False])
def test_answers_that_are_no_numbers_are_changes(*, labelled: bool) -> None:
    scores, noisy, labels = answered(128, 9, 0.01)
    for rows in (slice(None), slice(0, 64)):
        broken = noisy.copy()
        broken[rows] = np.nan
        found = changes(scores, broken, labels if labelled else None)
        assert found.flips >= 0.5
        assert not Allowed(5000, agreement=0.9).keeps_answers(found)
        assert not Noise(math.inf, found).within(Allowed(5000))
        assert Noise(math.inf, found).chance(Allowed(5000)) == 0


@pytest.mark.parametrize("masked", [-1e9, -math.inf])
def test_a_class_that_is_masked_out_says_nothing_of_the_others(masked: float) -> None:
    scores, noisy, labels = answered(128, 10, 0.2)
    labels = np.where(labels == 0, 1, labels)
    plain = changes(scores[:, 1:], noisy[:, 1:], labels - 1)
    scores[:, 0] = noisy[:, 0] = masked
    found = changes(scores, noisy, labels)
    assert found.flips == pytest.approx(plain.flips)
    assert found.lost == pytest.approx(plain.lost, abs=1e-3)
    assert found.won == pytest.approx(plain.won, abs=1e-3)


def test_the_fewer_answers_change_the_likelier_is_a_budget() -> None:
    scores, _, labels = answered(128, 11, 0.1)
    exact, generator = Exact.of(scores, labels), np.random.default_rng(3)
    assert exact
    noise = generator.standard_normal(scores.shape).astype(np.float32)
    chances = []
    for strength in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3):
        found = exact.changes(scores + np.float32(strength) * noise)
        chances.append(Allowed(342, drop=0.02).chance(found))
    assert chances[:3] == pytest.approx([1.0] * 3, abs=0.02), "hardly any is as good as none"
    assert all(later <= earlier + 0.02 for earlier, later in itertools.pairwise(chances))
    assert chances[-1] < 0.5
