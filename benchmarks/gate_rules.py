"""The rules that other gates go by, as their documentation gives them, on recorded rounds."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any, Final

QUERIES: Final = 100  # that a run of a benchmark takes for its one figure
HISTORY: Final = 30  # earlier figures
REPETITIONS: Final = 20  # of the U test, which wants nine at least

Drawn = tuple[list[float], list[list[float]], list[list[float]]]


def drawn(sessions: Sequence[Any], draw: random.Random) -> Drawn:
    """Figures of earlier runs, and of one session the repetitions of a process in its first half and of another in the
    second."""
    history = [statistics.fmean(_queries(draw.choice(sessions), draw)) for _ in range(HISTORY)]
    session = draw.choice(sessions)
    one, other = draw.sample(range(len(session.visits[0])), 2)
    count = min(REPETITIONS, session.pairs // 2)
    start = draw.randrange(session.pairs - 2 * count + 1)
    first = [list(itertools.chain(*session.visits[0][one][at])) for at in range(start, start + count)]
    second = [list(itertools.chain(*session.visits[0][other][at])) for at in range(start + count, start + 2 * count)]
    return history, first, second


def action_benchmark(history: list[float], first: list[list[float]], second: list[list[float]], factor: float) -> bool:
    """github-action-benchmark: more than 200 % of the figure before."""
    return factor * _figure(second) > 2.0 * history[-1]


def pytest_benchmark(history: list[float], first: list[list[float]], second: list[list[float]], factor: float) -> bool:
    """pytest-benchmark --benchmark-compare-fail=mean:5%: the mean against the stored run's."""
    return factor * _figure(second) > 1.05 * history[-1]


def u_test(history: list[float], first: list[list[float]], second: list[list[float]], factor: float) -> bool:
    """google/benchmark compare.py: Mann-Whitney U over repetitions, two sides at 5 %; a failure where it is slower."""
    before = [statistics.fmean(one) for one in first]
    after = [factor * statistics.fmean(one) for one in second]
    above = sum((b > a) + 0.5 * (b == a) for a in before for b in after)
    count, other = len(before), len(after)
    deviation = math.sqrt(count * other * (count + other + 1) / 12)
    z = (above - count * other / 2) / deviation
    return z > 1.959964


def t_boundary(history: list[float], first: list[list[float]], second: list[list[float]], factor: float) -> bool:
    """Bencher's t-test threshold: above the mean of earlier figures by the 99 % quantile of Student times their
    deviation."""
    return factor * _figure(second) > statistics.fmean(history) + _STUDENT * statistics.stdev(history)


RULES: Final[dict[str, Callable[..., bool]]] = {
    "github-action-benchmark, 200 %": action_benchmark,
    "pytest-benchmark, mean:5%": pytest_benchmark,
    "google/benchmark, U test": u_test,
    "t-test boundary of 99 %": t_boundary,
}
_STUDENT: Final = 2.4620  # 99 % of Student's t with 29 degrees of freedom


def _figure(repetitions: list[list[float]]) -> float:
    return statistics.fmean(list(itertools.chain(*repetitions))[:QUERIES])


def _queries(session: Any, draw: random.Random) -> list[float]:
    """Consecutive queries of one process."""
    process = draw.choice(session.visits[0])
    start = draw.randrange(session.pairs)
    found: list[float] = []
    for at in itertools.count(start):
        found += itertools.chain(*process[at % session.pairs])
        if len(found) >= QUERIES:
            return found[:QUERIES]
    raise AssertionError
