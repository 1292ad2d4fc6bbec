"""What few samples tell of many: flips and drops expected from crossed noise come true on samples never seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlopt.intervals import Allowed
from mlopt.precision.noise import Noise, changes, noise, spread

CLASSES = 50


def answered(count: int, seed: int, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, the same with noise, and labels of which the scores know two thirds."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, CLASSES, count)
    scores = generator.standard_normal((count, CLASSES)) + 3.0 * np.eye(CLASSES)[labels]
    noisy = scores + strength * generator.standard_normal(scores.shape)
    return scores.astype(np.float32), noisy.astype(np.float32), labels


@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_crossing_is_right_on_average_and_surer_than_counting(strength: float) -> None:
    many, noisy_many, truth = answered(100_000, 99, strength)
    before, after = many.argmax(axis=1), noisy_many.argmax(axis=1)
    crossed, counted, lost = [], [], []
    for seed in range(60):
        scores, noisy, labels = answered(64, seed, strength)
        expected = changes(scores, noisy, labels, scale=1.0)
        assert expected is not None
        assert expected.lost is not None
        assert expected.seen == 64
        crossed.append(expected.flips)
        lost.append(expected.lost)
        counted.append(float((scores.argmax(axis=1) != noisy.argmax(axis=1)).mean()))
    assert np.mean(crossed) == pytest.approx(float((before != after).mean()), rel=0.15)
    assert np.mean(lost) == pytest.approx(float(((before == truth) & (after != truth)).mean()), rel=0.25)
    assert np.std(crossed) < 0.8 * np.std(counted)


@pytest.mark.parametrize("strength", [0.01, 0.3, 3.0, math.inf])
@pytest.mark.parametrize("labelled", [True, False])
def test_classes_that_are_not_looked_at_change_nothing(strength: float, labelled: bool) -> None:
    """Every noise on every sample, class by class, counts the same."""
    scores, noisy, labels = answered(48, 6, min(strength, 1.0))
    if math.isinf(strength):
        noisy[3, 7] = math.inf
        noisy[5] = math.nan
    found = changes(scores, noisy, labels if labelled else None, scale=strength if strength < 1 else 1.0)
    best = scores.argmax(axis=1)
    apart = (noisy - scores) * np.float32(strength if strength < 1 else 1.0)
    now = np.stack([(scores + one).argmax(axis=1) for one in apart])
    right, still = best == labels, now == labels
    assert found is not None
    assert found.flips == (now != best).sum() / 48**2
    assert found.lost == ((right & ~still).sum() / 48**2 if labelled else None)
    assert found.won == ((~right & still).sum() / 48**2 if labelled else None)


def test_more_noise_changes_more() -> None:
    scores, noisy, labels = answered(64, 4, 0.2)
    found = [changes(scores, noisy, labels, scale=scale) for scale in (0.0, 0.5, 1.0, 2.0)]
    flips = [one.flips for one in found if one]
    assert flips[0] == 0
    assert flips == sorted(flips)
    assert len(set(flips)) == 4


def test_probabilities_are_compared_as_scores() -> None:
    scores, noisy, labels = answered(128, 5, 0.2)

    def softmax(x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - x.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)

    one = changes(scores, noisy, labels, scale=1.0)
    other = changes(softmax(scores), softmax(noisy), labels, scale=1.0)
    assert one is not None
    assert other is not None
    assert other.flips == pytest.approx(one.flips, rel=0.2)


def test_power_is_the_worst_outputs() -> None:
    one, two = np.ones((4, 3), np.float32), np.full((4, 5, 5), 2.0, np.float32)
    found = noise([one, two], [one, two * np.float32(1.1)])
    assert found.power == pytest.approx(0.01, rel=1e-4)
    assert found.sqnr == pytest.approx(20.0, abs=1e-3)
    assert noise([one], [one]).sqnr == math.inf
    assert noise([one], [one * np.float32(np.nan)]).sqnr == -math.inf


def test_what_is_no_classifier_has_no_flips() -> None:
    picture = np.ones((2, 3, 4, 4), np.float32)
    assert noise([picture], [picture]).changes is None


def test_spread_is_that_of_the_noise_between_samples_and_not_of_its_size() -> None:
    exact = np.zeros((4, 3), np.float32)
    alike = exact + 0.1
    assert spread(exact, alike) == pytest.approx(0, abs=1e-6)
    one = exact.copy()
    one[0] = 1
    assert spread(exact, one) == pytest.approx(math.sqrt(3))
    assert spread(exact, 7 * one) == pytest.approx(math.sqrt(3))
    assert spread(exact, exact) == 0


def test_decibels_that_few_uneven_samples_show_are_not_all_believed() -> None:
    allowed = Allowed(32, sqnr=25.0)
    at = 10**-2.53  # 25.3 dB
    assert Noise(at, None, spread=0.1, seen=32).within(allowed)
    assert not Noise(at, None, spread=0.4, seen=32).within(allowed)
    assert Noise(at, None, spread=0.4, seen=4000).within(Allowed(4000, sqnr=25.0))


def test_as_many_are_believed_as_is_said() -> None:
    """Of mixes whose true SQNR is the budget, one in twenty is let through."""
    draw = np.random.default_rng(5)
    passed = 0
    for _ in range(2000):
        calibration, evaluation = draw.gamma(4.0, 1 / 4.0, 32), draw.gamma(4.0, 1 / 4.0, 32)
        aimed = Noise(calibration.mean(), None, calibration.std() / calibration.mean(), 32)
        budget = Allowed(32, sqnr=-10 * math.log10(evaluation.mean()))  # what the judge will see is just enough
        passed += aimed.within(budget)
    assert 0.02 < passed / 2000 < 0.1
