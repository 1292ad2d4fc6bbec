"""False alarms and power of the change points of `mlopt history`, on seeded series whose changes are known.

    python benchmarks/change_points.py [--trials 1000]

Prints the table that docs/history.md holds. Series are of latencies whose logarithm has a spread of 2 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

import numpy as np

from mlopt.history.changes import splits

SPREAD = 0.02
BEFORE = 20
Noise = Callable[[np.random.Generator, int], np.ndarray]


def normal(draw: np.random.Generator, size: int) -> np.ndarray:
    return draw.normal(0, SPREAD, size)


def heavy(draw: np.random.Generator, size: int) -> np.ndarray:
    """Student's t with two degrees of freedom, which has no variance: a shared machine."""
    return SPREAD * draw.standard_t(2, size)


def moods(draw: np.random.Generator, size: int) -> np.ndarray:
    """A machine whose mood lasts: each value keeps half of the one before."""
    values = draw.normal(0, SPREAD, size) * math.sqrt(1 - 0.5**2)
    values[0] /= math.sqrt(1 - 0.5**2)
    for number in range(1, size):
        values[number] += 0.5 * values[number - 1]
    return values


NOISES: Mapping[str, Noise] = {"normal": normal, "heavy tails (t, 2 degrees)": heavy, "lasting moods (AR 0.5)": moods}


def alarms(noise: Noise, size: int, trials: int) -> float:
    """The share of series without a change in which one is found."""
    return sum(bool(splits(noise(np.random.default_rng([size, one]), size))) for one in range(trials)) / trials


def power(noise: Noise, shift: float, after: int, trials: int) -> float:
    """The share of series with one change, `after` results ago, in which one is found within two results of it."""
    found = 0
    for one in range(trials):
        values = noise(np.random.default_rng([after, one, 1]), BEFORE + after)
        values[BEFORE:] += math.log1p(shift)
        found += any(abs(split.index - BEFORE) <= 2 for split in splits(values))
    return found / trials


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    print(f"| noise of 2 % | of 20 | of 50 | +5 %, 4 ago | 6 ago | 10 ago | +10 %, 4 ago | 6 ago |\n|{' --- |' * 8}")
    for name, noise in NOISES.items():
        cells = [alarms(noise, size, trials) for size in (20, 50)]
        cells += [power(noise, 0.05, after, trials) for after in (4, 6, 10)]
        cells += [power(noise, 0.10, after, trials) for after in (4, 6)]
        print(f"| {name} | {' | '.join(f'{100 * cell:.1f} %' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main()
