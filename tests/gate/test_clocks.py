"""The rule over pairs of rounds: what is proven fails or passes, the rest stays open, and copies that differ warn."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from mlopt.gate.clocks import FEWEST, LEAST_SECONDS, Run, settled, watch
from mlopt.gate.rounds import ROLES, Pair, Role

MARGINS = {"latency-p50": 0.025, "cpu-time": 0.025}


def pairs(*, slower: float = 0.0, noise: float = 0.01, control: float = 0.0, seed: int = 0) -> Iterator[Pair]:
    """Pairs of one machine: every query has its own noise, and what disturbs a pair disturbs all three."""
    draw = random.Random(seed)
    slow = 1 + slower
    factor: dict[Role, float] = {"baseline": 1.0, "candidate": slow, "twin": slow, "control": 1 + control}
    while True:
        common = 0.001 * draw.lognormvariate(0, 0.3)

        def visit(role: Role, common: float = common) -> tuple[float, ...]:
            return tuple(common * factor[role] * draw.lognormvariate(0, noise) for _ in range(5))

        seconds = {role: (visit(role), visit(role)) for role in ROLES}
        yield Pair(seconds, seconds)


class Clock:
    """A tenth of a second for each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.1
        return self.now


def run(seconds: float = 60.0, **given: float) -> Run:
    return watch(pairs(**given), MARGINS, seconds=seconds, clock=Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(5))
def test_five_percent_is_told_from_nothing(seed: int) -> None:
    slow, same = run(slower=0.05, seed=seed), run(seed=seed)
    assert slow.verdict("latency-p50") == "fail"
    assert same.verdict("latency-p50") == same.verdict("cpu-time") == "pass"
    assert same.seconds < 30
    change = slow.clocks[0].change
    assert change is not None
    assert change.low <= 0.05 <= change.high


def test_it_does_not_decide_on_one_glance() -> None:
    found = run(slower=1.0)
    assert found.pairs >= FEWEST
    assert found.seconds >= LEAST_SECONDS


def test_too_little_time_is_inconclusive_and_says_what_it_could_hold() -> None:
    found = run(seconds=0.5)
    assert found.pairs <= 6
    assert found.verdict("latency-p50") == "inconclusive"
    assert found.clocks[0].holds is None, "so few pairs tell nothing at all"
    noisy = run(noise=0.5, seconds=8.0)
    assert noisy.verdict("latency-p50") == "inconclusive"
    holds = noisy.clocks[0].holds
    assert holds is not None
    assert 0.025 < holds < 2


def test_copies_of_the_baseline_that_differ_by_more_than_the_margin_leave_it_open() -> None:
    found = run(slower=0.08, control=0.08)
    assert found.verdict("latency-p50") == "inconclusive"


def test_a_candidate_that_is_only_slower_than_one_copy_does_not_fail() -> None:
    """3.5 % above the mean of two copies that lie 2.4 % apart is 2.3 % above the slower one."""
    found = run(slower=0.047, control=0.024, noise=0.005)
    assert found.verdict("latency-p50") != "fail"


def test_skewed_noise_does_not_lean_to_either_side() -> None:
    """Noise of strangers only ever slows; a mean of two copies against one lies 1 % off on such a machine."""
    changes = []
    for seed in range(20):
        draw = random.Random(seed)

        def visit(draw: random.Random = draw) -> tuple[float, ...]:
            stolen = draw.expovariate(1) * 0.3 if draw.random() < 0.5 else 0.0
            return tuple(0.001 * (1 + stolen) for _ in range(3))

        visits = [{role: (visit(), visit()) for role in ROLES} for _ in range(190)]
        found = watch((Pair(one, one) for one in visits), {"latency-p50": 0.5}, seconds=18.9, clock=Clock())
        change = found.clocks[0].change
        assert change is not None
        changes.append(change.value)
    assert abs(sum(changes) / len(changes)) < 0.008


def test_a_second_run_has_to_say_the_same() -> None:
    verdicts = ("pass", "fail", "inconclusive")
    runs = {name: SimpleNamespace(verdict=lambda metric, name=name: name) for name in verdicts}
    found = {
        (one, other): settled(runs[one], runs[other], "latency-p50")  # type: ignore[arg-type]
        for one, other in itertools.product(verdicts, verdicts)
    }
    assert [pair for pair, verdict in found.items() if verdict == "fail"] == [("fail", "fail")]
    assert found["pass", "pass"] == found["inconclusive", "pass"] == found["pass", "inconclusive"] == "pass"
    assert found["fail", "pass"] == found["pass", "fail"] == "inconclusive"
    assert settled(runs["fail"], None, "latency-p50") == "inconclusive"  # type: ignore[arg-type]
    assert settled(runs["pass"], None, "latency-p50") == "pass"  # type: ignore[arg-type]


def test_a_second_run_waits_for_what_failed_in_the_first() -> None:
    """Else one clock fails in the one run and another in the other, and both are taken for noise."""
    fast = run(slower=0.05)
    assert fast.failed
    again = watch(pairs(slower=0.05, seed=9), MARGINS, seconds=60.0, doubted=frozenset(MARGINS), clock=Clock())
    assert again.failed == frozenset(MARGINS)


def test_the_tail_takes_more_pairs_than_the_median() -> None:
    found = watch(pairs(), {"latency-p95": 0.1}, seconds=20.0, clock=Clock())
    assert len(found.clocks[0].candidate.values) == found.pairs // 6
