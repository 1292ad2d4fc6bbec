"""Memory of both sides: decided by bounds, in as few processes as it takes."""

from __future__ import annotations

import random

import pytest

from mlopt.gate.memory import Processes
from mlopt.measure.alone import Fresh

MIB = 1 << 20


def processes(baseline: list[float], candidate: list[float]) -> Processes:
    """Peaks in MiB."""
    return Processes(*(Fresh(peaks=[round(peak * MIB) for peak in side]) for side in (baseline, candidate)))


def test_two_of_each_prove_nothing() -> None:
    two = processes([100, 100], [200, 200])
    assert two.missing(0.03) == 2
    assert two.check(0.03).verdict == "inconclusive"


def test_four_of_each_decide_where_all_agree() -> None:
    same = processes([100, 100.1, 100.3, 100.2], [100.2, 100, 100.1, 100.4])
    assert (same.missing(0.03), same.check(0.03).verdict) == (0, "pass")
    more = processes([100, 100.1, 100.3, 100.2], [105.2, 105, 105.1, 105.4])
    assert (more.missing(0.03), more.check(0.03).verdict) == (0, "fail")
    change = more.check(0.03).change
    assert change is not None
    assert 0.046 < change.low < change.value < change.high < 0.055
    assert "4 and 4 fresh processes" in change.method


def test_what_is_undecided_takes_eight_and_one_stray_among_them_does_no_harm() -> None:
    stray = processes([100, 100, 100, 103], [105] * 4)
    assert stray.missing(0.03) == 4, "by 1.9 % at least is all that is proven"
    assert stray.check(0.03).verdict == "inconclusive"
    settled = processes([100] * 7 + [103], [105] * 8)
    assert (settled.missing(0.03), settled.check(0.03).verdict) == (0, "fail")
    never = processes([100, 103] * 4, [105, 102] * 4)
    assert never.missing(0.03) == 0
    assert never.check(0.03).verdict == "inconclusive"
    assert "differ too much" in never.check(0.03).note


@pytest.mark.parametrize(("larger", "verdict"), [(0.0, "pass"), (0.05, "fail")])
def test_it_is_right_in_99_of_100_gates_at_the_spread_that_processes_have(larger: float, verdict: str) -> None:
    """Processes of one model were seen to differ by 0.6 %; here it is 1 % (ten times the recorded median deviation)."""
    draw = random.Random(5)
    right = 0
    for _ in range(300):
        found = Processes()
        missing = 2
        while missing:
            found.baseline.peaks += [round(MIB * 100 * (1 + draw.random() / 100)) for _ in range(missing)]
            found.candidate.peaks += [round(MIB * 100 * (1 + larger + draw.random() / 100)) for _ in range(missing)]
            missing = found.missing(0.03)
        right += found.check(0.03).verdict == verdict
    assert right >= 297
