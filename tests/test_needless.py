"""What the clocks of others rule out, and what they do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from judgements import BASELINE, MUCH, PROFILE, judged, speed

from mlopt.choose import Judged, choose, judge
from mlopt.needless import needless, waves
from mlopt.plan import Candidate, Plan
from mlopt.profile import Budgets, Profile
from mlopt.recipe import all_recipes
from mlopt.units import Bytes, Fraction


@dataclass(frozen=True)
class Searching:
    """As much of a step as is looked at here."""

    allowed: Any = None


def candidate(name: str, reference: str = "", *steps: Any) -> Candidate:
    return Candidate(name, "", "int8", "onnxruntime", steps, no_faster_than=reference)


MIXED = candidate("mixed", "repaired", Searching())
REPAIRED = candidate("repaired", "static")
PLAN = Plan((candidate("baseline"), candidate("static"), MIXED, REPAIRED, candidate("lonely", "elsewhere")), ())


def ruled_out(*others: Judged, baseline: Judged = BASELINE, profile: Profile = PROFILE) -> Mapping[str, str]:
    choice = choose(baseline, others, profile, ship=None, device="here")
    return needless([MIXED, REPAIRED], PLAN, (baseline, *others), choice)


def test_what_cannot_outrun_something_slow_is_not_made() -> None:
    static, bf16 = judged("static", speed(1.1, 1.2, 1.3), MUCH), judged("bf16", speed(2.5, 2.7, 2.9))
    found = ruled_out(static, bf16)
    assert set(found) == {"mixed", "repaired"}
    assert found["mixed"] == (
        "it is no faster than static, which is slower (1.20× [1.10, 1.30]) than bf16 (2.70× [2.50, 2.90])"
    )


def test_what_keeps_the_budgets_and_is_slow_rules_out_too() -> None:
    static, bf16 = judged("static", speed(1.1, 1.2, 1.3)), judged("bf16", speed(2.5, 2.7, 2.9))
    assert set(ruled_out(static, bf16)) == {"mixed", "repaired"}


def test_a_tenth_may_be_chance() -> None:
    static, bf16 = judged("static", speed(2.3, 2.35, 2.4), MUCH), judged("bf16", speed(2.5, 2.7, 2.9))
    assert not ruled_out(static, bf16)


def test_where_all_int8_keeps_the_budgets_only_its_accuracy_is_left_to_better() -> None:
    found = ruled_out(judged("static", speed(2.3, 2.4, 2.5)))
    assert found == {"mixed": "there is nothing to search for: static keeps every budget"}


def test_a_search_waits_for_repair_too() -> None:
    static, repaired = judged("static", speed(2.3, 2.4, 2.5), MUCH), judged("repaired", speed(2.3, 2.4, 2.5))
    assert ruled_out(static, repaired)["mixed"] == "there is nothing to search for: repaired keeps every budget"
    found = ruled_out(static, dataclasses.replace(repaired, verdicts=static.verdicts))
    assert not found, "neither keeps it: a mix may"


def test_what_is_slower_than_the_original_rules_out_too() -> None:
    assert set(ruled_out(judged("static", speed(0.7, 0.8, 0.85), MUCH))) == {"mixed", "repaired"}
    assert not ruled_out(judged("static", speed(1.4, 1.5, 1.6), MUCH)), "nothing else is there that could ship"


def test_speed_rules_nothing_out_where_the_original_keeps_no_budget() -> None:
    small = dataclasses.replace(PROFILE, budgets=Budgets(max_drop=Fraction(0.02), file_size=Bytes(200)))
    assert BASELINE.measurement
    large = dataclasses.replace(
        BASELINE,
        verdicts=judge(small.budgets, file_size=400, accuracy=BASELINE.accuracy, measurement=BASELINE.measurement),
    )
    slow = judged("static", speed(0.7, 0.8, 0.85), MUCH, profile=small)
    assert not ruled_out(slow, baseline=large, profile=small)


def test_what_was_never_timed_rules_out_nothing() -> None:
    assert not ruled_out(judged("bf16", speed(2.5, 2.7, 2.9))), "static could not be built"


@pytest.mark.parametrize(
    ("minimize", "here", "names"),
    [
        ("latency", True, [["baseline", "static", "lonely"], ["repaired"], ["mixed"]]),
        ("latency", False, [["baseline", "static", "mixed", "repaired", "lonely"]]),
        ("size", True, [["baseline", "static", "mixed", "repaired", "lonely"]]),
    ],
)
def test_who_waits(minimize: Any, here: bool, names: list[list[str]]) -> None:
    profile = dataclasses.replace(PROFILE, minimize=minimize)
    assert [[one.name for one in wave] for wave in waves(PLAN, profile, on_this_machine=here)] == names


def test_recipes_wait_for_recipes_of_the_same_runtime() -> None:
    recipes = {one.name: one for one in all_recipes()}
    late = [one for one in recipes.values() if one.no_faster_than]
    assert late
    for one in late:
        assert recipes[one.no_faster_than].runtime == one.runtime
