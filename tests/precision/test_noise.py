"""What quantization does to answers: noise over signal, and what of it is believed of few samples."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlopt.intervals import Allowed
from mlopt.precision.noise import Noise, power, spread


def test_power_is_the_worst_outputs() -> None:
    one, two = np.ones((4, 3), np.float32), np.full((4, 5, 5), 2.0, np.float32)
    found = power([one, two], [one, two * np.float32(1.1)])
    assert found == pytest.approx(0.01, rel=1e-4)
    assert Noise(found, None).sqnr == pytest.approx(20.0, abs=1e-3)
    assert Noise(power([one], [one]), None).sqnr == math.inf
    assert Noise(power([one], [one * np.float32(np.nan)]), None).sqnr == -math.inf


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
