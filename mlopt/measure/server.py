"""The server scenario: queries arrive by a Poisson process; the highest rate at which a bound on latency holds.

MLPerf's scenario with its rule: a trial holds when at most so many queries are late that fewer than one in a hundred
are, at 99 % confidence. One query is computed at a time, in the order of arrival, and waiting counts.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from mlopt.measure.percentiles import least_late, most_late, percentile

if TYPE_CHECKING:
    from mlopt.measure.process import Worker

LATE: Final = 0.01
_FEWEST, _MOST = 662, 5000  # queries of a trial: MLPerf's least for a 99th percentile, and what a machine has time for
_PATIENCE: Final = 600.0  # seconds that a worker may be behind the last arrival
_TRIALS: Final = 16
_SHARE: Final = 1 / 8  # of the time, for a trial
_CLOSE: Final = 1.05  # the highest rate is known to a twentieth
_STEP: Final = 1.2
_IDLE: Final = 0.1  # busy for less of its time a server has next to no queue …
_HOPELESS: Final = 4  # … and at a fourth of that, or of what is predicted, a lower rate would hold no sooner
_SERVICES, _PREDICTED = 200, 5000


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate that was tried. `queries` were answered, `late` of them after the bound."""

    rate: float
    queries: int
    late: int
    p99: float
    outcome: Literal["holds", "breaks", "undecided"]


@dataclass(frozen=True, slots=True)
class ServerRate:
    """`rate` in queries per second is the highest at which a trial held, None where none did; `not_held` the lowest
    above it that did not. Arrivals are drawn with `seed`, the same for every rate. Of `single` queries, asked one at a
    time before, `single_late` took longer than the bound; there are no trials where that proves them useless."""

    bound: float
    percent: float
    rate: float | None
    not_held: float | None
    seed: int
    single: int
    single_late: int
    trials: tuple[Trial, ...]


def highest_rate(worker: Worker, bound: float, *, seconds: float, seed: int = 0) -> ServerRate:
    """Bisection by real trials, from the rate that the queries' own times predict. Raises `WorkerFailed`.

    `seconds` bound the search once a rate has held. A trial is of 662 to 5000 queries.
    """
    services = worker.ask("query", count=_SERVICES)["seconds"]
    alone = len(services), sum(taken > bound for taken in services)
    if alone[1] >= least_late(len(services), LATE):
        return ServerRate(bound, 100 * (1 - LATE), None, None, seed, *alone, ())
    ends = time.monotonic() + seconds
    trials: list[Trial] = []
    held, not_held, rate = None, None, predicted_rate(services, bound, seed=seed)
    mean = sum(services) / len(services)
    least = min(rate, _IDLE / mean) / _HOPELESS
    step = _STEP  # longer each time until there is a rate on both sides: the prediction may be far off
    while len(trials) < _TRIALS and (held is None or time.monotonic() < ends):
        trial = _try(worker, rate, bound, queries=_queries(rate, seconds), seed=seed)
        trials.append(trial)
        if trial.outcome == "holds":
            held = max(rate, held or rate)
        else:
            not_held = min(rate, not_held or rate)
        if held and not_held and not_held / held <= _CLOSE:
            break
        if held and held * mean > _MOST:  # all queries of a trial come in the time of one: faster is the same trial
            break
        if held and not_held:
            rate = math.sqrt(held * not_held)
        else:
            rate, step = rate * step if held else rate / step, step**2
            if not held and rate < least:
                break
    above = [trial.rate for trial in trials if trial.outcome != "holds" and trial.rate > (held or 0)]
    return ServerRate(bound, 100 * (1 - LATE), held, min(above, default=None), seed, *alone, tuple(trials))


def predicted_rate(services: Sequence[float], bound: float, *, seed: int = 0) -> float:
    """The rate at which a queue with these times of single queries would keep the bound: where to begin."""
    draw = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    gaps = [draw.expovariate(1.0) for _ in range(_PREDICTED)]
    times = draw.choices(services, k=_PREDICTED)
    low, high = 0.0, 1 / (sum(services) / len(services))
    for _ in range(20):
        rate = (low + high) / 2
        late = sum(latency > bound for latency in _queue(gaps, times, rate))
        low, high = (rate, high) if late <= LATE * _PREDICTED else (low, rate)
    return low or high / 100


def arrivals(rate: float, queries: int, *, seed: int) -> list[float]:
    """When each query arrives, in seconds: a Poisson process whose draws are the same at every rate."""
    draw = random.Random(seed)  # noqa: S311 - arrivals, not secrets
    return list(itertools.accumulate(draw.expovariate(1.0) / rate for _ in range(queries)))


def _queue(gaps: Sequence[float], times: Sequence[float], rate: float) -> Iterator[float]:
    """Latencies of a queue with one server, by Lindley's recursion."""
    waiting = 0.0
    for gap, service in zip(gaps, times, strict=True):
        waiting = max(0.0, waiting - gap / rate)
        waiting += service
        yield waiting


def _queries(rate: float, seconds: float) -> int:
    return min(_MOST, max(_FEWEST, int(rate * seconds * _SHARE)))


def _try(worker: Worker, rate: float, bound: float, *, queries: int, seed: int) -> Trial:
    """Stopped early only where it breaks whatever comes."""
    breaks = least_late(queries, LATE)
    due = arrivals(rate, queries, seed=seed)
    times = worker.ask("serve", limit=due[-1] + _PATIENCE, arrivals=due, bound=bound, late=breaks)["seconds"]
    late = sum(taken > bound for taken in times)
    allowed = most_late(queries, LATE)
    undecided: Literal["breaks", "undecided"] = "breaks" if late >= breaks else "undecided"
    holds = allowed is not None and late <= allowed and len(times) == queries
    return Trial(rate, len(times), late, percentile(sorted(times), 99), "holds" if holds else undecided)
