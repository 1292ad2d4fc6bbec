"""The judge: what disqualifies, who wins on each goal, what the verdicts say, and what is out of reach."""

from __future__ import annotations

import dataclasses

import pytest
from judgements import BASELINE, MUCH, NONE, PROFILE, accuracy, judged, measured, speed

from mlopt.choose import Judged, choose, judge
from mlopt.errors import UnsupportedModel
from mlopt.measurement import BudgetVerdict, Interval, Latency
from mlopt.pareto import pareto
from mlopt.profile import Budgets, Profile
from mlopt.recipe import find_recipe
from mlopt.rounding import changes_by_noise
from mlopt.units import Bytes, Decibel, Fraction, Seconds, parse
from mlopt.verdicts import keepers, nearest, out_of_reach


def test_of_those_that_are_as_fast_the_one_with_least_memory_ships() -> None:
    fastest = judged("fastest", speed(2.8, 3.0, 3.2), memory=200 * 10**6)
    lean = judged("lean", speed(2.7, 2.98, 3.1), memory=120 * 10**6)
    slower = judged("slower", speed(2.7, 2.9, 3.1), memory=50 * 10**6)
    choice = choose(BASELINE, [fastest, lean, slower], PROFILE, ship=None, device="here")
    assert choice.winner == "lean"
    told = "lean is as good on what is asked for, within three parts in a hundred, and takes less memory"
    assert choice.why_not["fastest"] == told
    assert choice.why_not["slower"] == "lean is better on latency", "more than three parts in a hundred is no tie"
    sharp = judged("sharp", speed(2.99, 3.0, 3.01), memory=200 * 10**6)
    apart = judged("apart", speed(2.94, 2.95, 2.96), memory=50 * 10**6)
    assert choose(BASELINE, [sharp, apart], PROFILE, ship=None, device="here").winner == "sharp", "proven is no tie"
    without = choose(BASELINE, [fastest, slower], PROFILE, ship=None, device="here")
    assert without.winner == "fastest"


def test_of_those_that_take_as_much_memory_too_the_most_faithful_ships() -> None:
    plain = judged("plain", speed(2.8, 3.0, 3.2), memory=100 * 10**6, sqnr=25.0)
    faithful = judged("faithful", speed(2.7, 2.98, 3.1), memory=102 * 10**6, sqnr=31.0)
    choice = choose(BASELINE, [plain, faithful], PROFILE, ship=None, device="here")
    assert choice.winner == "faithful"
    assert choice.why_not["plain"].endswith("and answers more like the original")
    heavy = judged("heavy", speed(2.7, 2.98, 3.1), memory=110 * 10**6, sqnr=31.0)
    assert choose(BASELINE, [plain, heavy], PROFILE, ship=None, device="here").winner == "plain"


def test_of_those_that_run_the_same_kernels_the_most_faithful_ships_whatever_chance_made_of_their_clocks() -> None:
    plain = judged("plain", speed(4.2, 4.4, 4.6), sqnr=25.0, work="a")
    repaired = judged("repaired", speed(4.0, 4.2, 4.5), sqnr=31.0, work="a")
    choice = choose(BASELINE, [plain, repaired], PROFILE, ship=None, device="here")
    assert choice.winner == "repaired"
    assert choice.why_not["plain"] == "repaired runs the same kernels, and answers more like the original"
    lean = judged("lean", speed(4.2, 4.38, 4.5), memory=50 * 10**6, work="b")
    third = choose(BASELINE, [plain, repaired, lean], PROFILE, ship=None, device="here")
    assert third.winner == "lean"
    assert third.why_not["repaired"] == "lean is better on latency", "it is slower, by other kernels"
    other = dataclasses.replace(repaired, work="b")
    assert choose(BASELINE, [plain, other], PROFILE, ship=None, device="here").winner == "plain"
    slower = judged("slower", speed(3.0, 3.2, 3.4), sqnr=31.0, work="a")
    assert choose(BASELINE, [plain, slower], PROFILE, ship=None, device="here").winner == "plain", "a proof is one"


def choice(*others: Judged, profile: Profile = PROFILE, ship: str | None = None):  # type: ignore[no-untyped-def]
    return choose(BASELINE, others, profile, ship=ship, device="a machine")


def test_the_fastest_inside_every_budget_ships() -> None:
    found = choice(judged("a", speed(1.5, 1.6, 1.7)), judged("b", speed(1.9, 2.0, 2.1)))
    assert found.winner == "b"
    assert found.why_not["a"] == "b is better on latency"
    assert found.eligible == ("a", "b")
    assert "2.00×" in found.why


def test_faster_is_not_enough_when_the_drop_may_be_too_large() -> None:
    found = choice(judged("a", speed(3, 3, 3), MUCH))
    assert found.winner == "baseline"
    assert "max-drop is 5 points at 95 % confidence, the budget is 2 points" in found.why_not["a"]


def test_what_no_budget_judges_is_not_trusted_unless_it_answers_the_same() -> None:
    """A profile of latencies alone must not ship whatever is fast."""
    profile = Profile("p", "", budgets=Budgets(latency_p99=Seconds(1)))
    fast = judged("fast", speed(3, 3, 3), MUCH, profile=profile)
    found = choice(fast, profile=profile)
    assert found.winner == "baseline"
    assert "judges its answers" in found.why_not["fast"]
    assert fast.accuracy
    exact = dataclasses.replace(fast, accuracy=dataclasses.replace(fast.accuracy, sqnr=float("inf")))
    assert choice(exact, profile=profile).winner == "fast"


def test_a_speed_up_that_noise_could_explain_does_not_count() -> None:
    found = choice(judged("a", speed(0.99, 1.3, 1.6)))
    assert found.winner == "baseline"
    assert "not proven faster" in found.why_not["a"]


def test_what_was_not_timed_on_the_target_never_wins() -> None:
    found = choice(judged("a", None))
    assert found.winner == "baseline"
    assert "unmeasured" in found.why_not["a"]


@pytest.mark.parametrize(("goal", "winner"), [("size", "small"), ("memory", "lean"), ("latency", "fast")])
def test_the_profile_says_what_is_better(goal: str, winner: str) -> None:
    profile = dataclasses.replace(PROFILE, minimize=goal)  # type: ignore[arg-type]
    found = choice(
        judged("small", speed(1.1, 1.1, 1.1), size=50),
        judged("lean", speed(1.1, 1.1, 1.1), memory=10**7),
        judged("fast", speed(2, 2, 2)),
        profile=profile,
    )
    assert found.winner == winner


def test_smaller_but_slower_does_not_ship() -> None:
    profile = dataclasses.replace(PROFILE, minimize="size")
    found = choice(judged("small", speed(0.7, 0.8, 0.9), size=10), profile=profile)
    assert found.winner == "baseline"
    assert "slower" in found.why_not["small"]


def test_ship_overrides_the_judge_and_says_what_he_said() -> None:
    found = choice(judged("a", speed(3, 3, 3), MUCH), judged("b", speed(2, 2, 2)), ship="a")
    assert found.winner == "a"
    assert "asked for by name" in found.why
    assert "max-drop" in found.why
    assert "a" not in found.why_not


def test_what_could_not_be_made_cannot_ship() -> None:
    with pytest.raises(UnsupportedModel, match="a kernel is missing"):
        choose(BASELINE, (), PROFILE, ship="a", device="m", failures={"a": "a kernel is missing."})


def test_a_budget_without_a_number_is_unmeasured_not_met() -> None:
    budgets = Budgets(latency_p99=Seconds(1.0), peak_memory=Bytes(1), file_size=Bytes(100))
    verdicts = judge(budgets, file_size=100, accuracy=None, measurement=None)
    assert {one.budget: one.outcome for one in verdicts} == {
        "latency-p99": "unmeasured",
        "peak-memory": "unmeasured",
        "file-size": "met",
    }


def test_the_bound_decides_and_the_note_says_what_would_prove_it() -> None:
    (verdict,) = judge(
        PROFILE.budgets, file_size=1, accuracy=accuracy(Interval(0.01, -0.01, 0.03, "")), measurement=None
    )
    assert verdict.outcome == "missed"
    assert verdict.actual == 0.03
    assert "1600 samples" in verdict.note


GENERATED = dataclasses.replace(accuracy(), generated=True, agreement=Interval(0.97, 0.92, 0.99, "made up"))


@pytest.mark.parametrize(
    ("precision", "sqnr", "agreement", "told"),
    [
        ("bf16", 39.7, 0.95, {"min-sqnr": "met"}),  # ties on generated inputs do not decide
        ("bf16", 28.2, 0.95, {"min-sqnr": "missed"}),  # more noise than rounding brings by itself
        ("fp32", 120.0, 0.99, {"min-sqnr": "met"}),
        ("bf16", 39.7, 0.99, {"min-sqnr": "missed"}),  # who asks for more answers gets less noise
        ("bf16", 200.0, 1.0, {"min-sqnr": "missed"}),  # no rounding keeps every answer for certain
        ("int8", 39.7, 0.95, {"min-agreement": "missed"}),  # ranges come from somewhere
        ("fp16", 60.0, 0.95, {"min-agreement": "missed"}),  # may overflow on inputs that nobody has seen
        ("bf16", 39.7, None, {}),
    ],
)
def test_without_samples_what_only_rounds_is_judged_by_its_noise(
    precision: str, sqnr: float, agreement: float | None, told: dict[str, str]
) -> None:
    budgets = Budgets(min_agreement=None if agreement is None else Fraction(agreement))
    found = dataclasses.replace(GENERATED, sqnr=sqnr)
    verdicts = judge(
        budgets, file_size=1, accuracy=found, measurement=None, rounds=changes_by_noise(precision, ["set-precision"])
    )
    assert {one.budget: one.outcome for one in verdicts} == told
    for one in verdicts:
        assert ("no accuracy was measured" in one.note) == (one.budget == "min-sqnr")


def test_a_recipe_that_does_more_than_round_is_not_judged_as_one_that_rounds() -> None:
    assert changes_by_noise("fp32", ()) == 2.8, "the model itself in another runtime"
    assert changes_by_noise("int8", ("quantize-hybrid", "to-tflite")) == 4.5, "ranges hang on how far values reach"
    assert not changes_by_noise("fp32", ("optimize-graph", "prune-channels"))
    assert not changes_by_noise("bf16", ("quantize-static", "set-precision"))
    assert not changes_by_noise("int8", ("quantize-static", "to-tflite")), "its ranges come from samples"
    assert not changes_by_noise("int8", ("prune-channels", "quantize-hybrid", "to-tflite"))


@pytest.mark.parametrize("name", ["fp32", "openvino-fp32", "openvino-bf16", "litert-int8-dynamic"])
def test_recipes_that_only_round_are_known_as_such(name: str) -> None:
    recipe = find_recipe(name)
    assert changes_by_noise(recipe.precision, [step.name for step in recipe.steps])


def test_samples_and_the_profile_s_own_noise_come_first() -> None:
    real = dataclasses.replace(GENERATED, generated=False)
    budgets = Budgets(min_agreement=Fraction(0.95), min_sqnr=Decibel(45))
    own, by_agreement = judge(budgets, file_size=1, accuracy=real, measurement=None, rounds=2.8)[::-1]
    assert (by_agreement.budget, by_agreement.outcome, own.limit) == ("min-agreement", "missed", 45)
    (stricter,) = judge(budgets, file_size=1, accuracy=GENERATED, measurement=None, rounds=2.8)
    assert (stricter.budget, stricter.limit, stricter.outcome) == ("min-sqnr", 45, "missed")
    regression = dataclasses.replace(GENERATED, agreement=None)
    cosine = Budgets(min_agreement=Fraction(0.95), min_cosine=0.99)
    (alone,) = judge(cosine, file_size=1, accuracy=regression, measurement=None, rounds=2.8)
    assert alone.budget == "min-cosine", "what has no classes is judged as ever"


def test_out_of_reach_names_the_nearest_and_only_budgets_that_nobody_keeps() -> None:
    profile = Profile("p", "", budgets=Budgets(file_size=Bytes(10), latency_p99=Seconds(1)))
    candidates = [
        judged(name, speed(1, 1, 1), size=size, profile=profile) for name, size in (("a", 400), ("b", 25), ("c", 90))
    ]
    (said,) = out_of_reach({one.name: one.verdicts for one in candidates})
    assert "file-size is 25 B, the budget is 10 B" in said
    assert "that is b, the nearest" in said


def test_nothing_is_out_of_reach_of_what_was_not_measured() -> None:
    profile = Profile("p", "", budgets=Budgets(latency_p99=Seconds(1e-9)))
    assert out_of_reach({"a": judged("a", None, profile=profile).verdicts}) == ()
    assert out_of_reach({}) == ()
    image = BudgetVerdict("image-size", 1, 2, "missed", "measured")
    met = judged("a", speed(1, 1, 1)).verdicts
    assert out_of_reach({"a": met, "b": (*met, image)}) == (), "what was judged of one alone"


def test_budgets_that_only_exclude_each_other_are_out_of_reach_together() -> None:
    profile = Profile("p", "", budgets=Budgets(file_size=Bytes(100), max_drop=Fraction(0.01)))
    small = judged("small", speed(1, 1, 1), size=50, profile=profile, drop=Interval(0.02, 0.01, 0.03, ""))
    large = judged("large", speed(1, 1, 1), size=150, profile=profile, drop=NONE)
    (said,) = out_of_reach({one.name: one.verdicts for one in (small, large)})
    assert said == "each of max-drop, file-size is kept by one or another, and all at once by none"
    both = judged("both", speed(1, 1, 1), size=100, profile=profile, drop=NONE)
    assert out_of_reach({one.name: one.verdicts for one in (small, large, both)}) == ()
    assert keepers({one.name: one.verdicts for one in (small, large, both)}) == ("both",)


def test_the_nearest_budget_can_be_typed_and_is_kept() -> None:
    """Figures are rounded to the far side: 85 kB would not hold 85 040 B."""
    tight = Budgets(file_size=Bytes(1), max_drop=Fraction(0.0001), latency_p50=Seconds(1e-6), peak_memory=Bytes(1))
    profile = Profile("p", "", budgets=tight)
    kinds = {"--max-size": Bytes, "--max-drop": Fraction, "--max-latency": Seconds, "--max-memory": Bytes}
    for number in range(60):
        size, memory = 85_041 * (number + 1) ** 3 + number, 10**7 + 1_234_567 * number
        drop = Interval(0.0, 0.0, 0.00101 + 0.0007 * number, "")
        one = judged("a", speed(1, 1, 1), drop, size=size, memory=memory, profile=profile)
        words = nearest({"a": one.verdicts}).split(" with ")[1].replace(" and ", " ").split()
        said = dict(zip(words[::2], words[1::2], strict=True))
        larger = Budgets(
            file_size=parse(kinds["--max-size"], said["--max-size"]),  # type: ignore[arg-type]
            max_drop=parse(kinds["--max-drop"], said["--max-drop"]),  # type: ignore[arg-type]
            latency_p50=parse(kinds["--max-latency"], said["--max-latency"]),  # type: ignore[arg-type]
            peak_memory=parse(kinds["--max-memory"], said["--max-memory"]),  # type: ignore[arg-type]
        )
        again = judge(larger, file_size=size, accuracy=one.accuracy, measurement=one.measurement)
        assert [verdict.outcome for verdict in again] == ["met"] * 4, said
        assert larger.file_size is not None
        assert larger.file_size <= size * 1.02, "near"


def test_latency_is_judged_by_its_bound_too() -> None:
    taken = dataclasses.replace(
        measured(speed(1, 1, 1)), latency=Latency(0.01, 0.02, 0.03, 0.01, 0.03, 99, (), 0.012, 0.02, 0.03)
    )
    for limit, outcome in ((0.011, "missed"), (0.012, "met")):
        (verdict,) = judge(Budgets(latency_p50=Seconds(limit)), file_size=1, accuracy=None, measurement=taken)
        assert (verdict.outcome, verdict.actual) == (outcome, 0.012)


def test_a_tail_of_too_few_queries_is_judged_by_the_slowest_and_says_so() -> None:
    taken = measured(speed(1, 1, 1), p99=0.01)
    for queries, noted in ((1000, False), (458, True)):
        latency = dataclasses.replace(taken.latency, queries=queries, p99_high=0.013)
        (verdict,) = judge(
            Budgets(latency_p99=Seconds(0.012)),
            file_size=1,
            accuracy=None,
            measurement=dataclasses.replace(taken, latency=latency),
        )
        assert (verdict.outcome, verdict.actual) == ("missed", 0.013), "p99 itself keeps it, its bound does not"
        assert ("takes 459" in verdict.note) is noted


def test_where_the_baseline_misses_a_budget_what_keeps_all_ships_even_if_no_faster() -> None:
    profile = dataclasses.replace(PROFILE, budgets=dataclasses.replace(PROFILE.budgets, file_size=Bytes(300)))
    baseline = judged("baseline", speed(1, 1, 1), NONE, size=400, profile=profile)
    half = judged("half", speed(0.7, 0.8, 0.9), size=200, profile=profile)
    found = choose(baseline, [half], profile, ship=None, device="here")
    assert found.winner == "half"
    assert "which the baseline is not (file-size is 400 B, the budget is 300 B)" in found.why
    faster = judged("faster", speed(1.1, 1.2, 1.3), size=200, profile=profile)
    assert choose(baseline, [half, faster], profile, ship=None, device="here").winner == "faster"
    small = judged("baseline", speed(1, 1, 1), NONE, size=300, profile=profile)
    assert choose(small, [half], profile, ship=None, device="here").winner == "baseline"


def with_image(one: Judged, image_size: int | None, budgets: Budgets) -> Judged:
    verdicts = judge(
        budgets, file_size=one.file_size, accuracy=one.accuracy, measurement=one.measurement, image_size=image_size
    )
    return dataclasses.replace(one, verdicts=verdicts)


def test_of_two_the_one_whose_image_keeps_its_budget_ships_though_slower() -> None:
    budgets = dataclasses.replace(PROFILE.budgets, image_size=Bytes(120 * 10**6))
    slim = with_image(judged("slim", speed(1.8, 1.9, 2.0)), 116 * 10**6, budgets)
    heavy = with_image(judged("heavy", speed(3.5, 3.8, 4.0)), 183 * 10**6, budgets)
    found = choose(with_image(BASELINE, 117 * 10**6, budgets), [heavy, slim], PROFILE, ship=None, device="here")
    assert found.winner == "slim"
    assert found.why_not["heavy"] == "image-size is 183 MB, the budget is 120 MB"


def test_where_no_image_is_made_its_budget_disqualifies_nobody() -> None:
    budgets = dataclasses.replace(PROFILE.budgets, image_size=Bytes(1))
    fast = with_image(judged("fast", speed(3.5, 3.8, 4.0)), None, budgets)
    found = choose(with_image(BASELINE, None, budgets), [fast], PROFILE, ship=None, device="here")
    assert found.winner == "fast"
    assert {one.budget: one.outcome for one in fast.verdicts}["image-size"] == "unmeasured"


def test_pareto_keeps_what_nothing_beats_on_all_three() -> None:
    good = judged("good", speed(2, 2, 2), size=100)
    worse = judged("worse", speed(1.5, 1.5, 1.5), size=120)
    small = judged("small", speed(1.2, 1.2, 1.2), size=40)
    assert pareto((good, worse, small)) == ("good", "small")


def test_nearest_names_who_keeps_all_budgets_at_once_were_they_a_little_larger() -> None:
    profile = Profile("p", "", budgets=Budgets(file_size=Bytes(100), max_drop=Fraction(0.01)))
    small = judged("small", speed(1, 1, 1), size=50, profile=profile, drop=Interval(0.02, 0.01, 0.03, ""))
    large = judged("large", speed(1, 1, 1), size=150, profile=profile, drop=Interval(0.0, 0.0, 0.0, ""))
    said = nearest({one.name: one.verdicts for one in (small, large)})
    assert said == "large comes nearest: it keeps every budget with --max-size 150B", "half over beats twice over"
    kept = judged("kept", speed(1, 1, 1), size=100, profile=profile, drop=Interval(0.0, 0.0, 0.01, ""))
    assert nearest({one.name: one.verdicts for one in (small, large, kept)}) == ""
    assert nearest({}) == ""
