"""Budgets in a gate: kept, broken, or neither; and none of them vanishes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from mlopt.gate.compare import budgets, gpu_memory, instructions, stored_memory
from mlopt.gate.result import Check, NotCompared, Side, Stored
from mlopt.intervals import paired_difference, proportion
from mlopt.measure.alone import Fresh
from mlopt.measure.gpu import OWN
from mlopt.measure.subjects import versions_of
from mlopt.measurement import Accuracy, Gpu, Interval, Latency, Measurement, Starts
from mlopt.profile import Budgets, Margins
from mlopt.units import Fraction

SIDE = Side("net.onnx", "d" * 64, "onnxruntime", 4000, {"Conv": 2})
LATENCY = Latency(
    0.001, 0.002, 0.003, 0.001, 0.003, 3, (0.001, 0.002, 0.003), p50_high=0.0012, p90_high=0.0022, p99_high=0.003
)
MEASURED = Measurement(
    device="A CPU",
    grade="measured",
    runtime="onnxruntime",
    scenario="single-stream",
    threads=1,
    batch=1,
    latency=LATENCY,
    speedup=Interval(1.0, 1.0, 1.0, "m"),
    rounds=4,
    throughput=1000.0,
    offline_batch=8,
    load_time=0.1,
    first_inference=0.1,
    peak_memory=10**8,
    memory_after_import=10**7,
    memory_after_load=10**7,
    major_faults=0,
    starts=Fresh([0.1] * 6, [10**8] * 6).starts,
    gpu=None,
)
CARD = Gpu("uuid", "A card", "580.1", False, {"CUDAExecutionProvider": 4}, {}, None, 1030, OWN, None, ())


def memory_beside(*, peaks: int = 6, arena: int | None = None, **ran: object) -> dict[str, Check | NotCompared]:
    method = {"scenario": "single-stream", "threads": 1, "batch": 1, "offline_batch": 8, **ran}
    machine = {"cpu": "A CPU", **versions_of("onnxruntime")}
    stored = Stored(Path("s.json"), SIDE, machine, method, {"arena-peak": 100.0}, (10**8,) * peaks, None, None, None)  # type: ignore[arg-type]
    margins = Margins(peak_memory=Fraction(0.03), arena_peak=Fraction(0.01))
    found = stored_memory(margins, stored, MEASURED, arena, cpu="A CPU")
    return {one.metric: one for one in found}


def test_stored_memory_is_compared_only_where_both_ran_alike() -> None:
    alike = memory_beside()["peak-memory"]
    assert isinstance(alike, Check)
    assert alike.verdict == "pass"
    others = {"scenario": "offline", "threads": 2, "batch": 4, "offline_batch": 64}
    for name, value in others.items():
        for left in memory_beside(arena=100, **{name: value}).values():
            assert isinstance(left, NotCompared), name
            assert f"{name.replace('_', '-')} {value}" in left.reason
    before = memory_beside(offline_batch=None)["peak-memory"]
    assert isinstance(before, NotCompared)
    assert "(unknown)" in before.reason


def test_one_stored_process_proves_nothing_about_memory() -> None:
    one = memory_beside(peaks=1)["peak-memory"]
    assert isinstance(one, Check)
    assert one.verdict == "inconclusive"
    assert "store the baseline anew" in one.note


def test_a_stored_arena_is_compared_to_the_byte() -> None:
    verdicts = [getattr(memory_beside(arena=count)["arena-peak"], "verdict", None) for count in (100, 101, 102)]
    assert verdicts == ["pass", "pass", "fail"]
    left = memory_beside(arena=None)["arena-peak"]
    assert isinstance(left, NotCompared)
    assert "does not tell" in left.reason


def answered(*, lost: int = 0, samples: int = 75, labelled: bool = True) -> Accuracy:
    return Accuracy(
        device="A CPU",
        grade="measured",
        samples=samples,
        labelled=labelled,
        generated=not labelled,
        top1=0.8 if labelled else None,
        baseline_top1=0.8 if labelled else None,
        drop=paired_difference(lost, 0, samples) if labelled else None,
        agreement=proportion(samples - lost, samples),
        cosine=1.0,
        sqnr=60.0,
    )


def found(accuracy: Accuracy | None, **given: float) -> dict[str, Check | NotCompared]:
    limits = Budgets(**given)  # type: ignore[arg-type]
    return {one.metric: one for one in budgets(limits, SIDE, accuracy, MEASURED)}


def verdict(accuracy: Accuracy, **given: float) -> str:
    (one,) = found(accuracy, **given).values()
    assert isinstance(one, Check)
    return one.verdict


def test_few_samples_break_no_limit() -> None:
    (drop,) = found(answered(), max_drop=0.01).values()
    assert isinstance(drop, Check)
    assert drop.verdict == "inconclusive"
    assert "samples would prove it" in drop.note
    (agreement,) = found(answered(labelled=False, samples=50), min_agreement=0.97).values()
    assert isinstance(agreement, Check)
    assert agreement.verdict == "inconclusive"
    assert agreement.note
    assert verdict(answered(), latency_p50=0.0011) == "inconclusive"
    assert verdict(answered(), latency_p90=0.0021) == "inconclusive"


def test_what_misses_the_limit_itself_still_fails() -> None:
    assert verdict(answered(lost=5), max_drop=0.01) == "fail"
    assert verdict(answered(lost=5, labelled=False), min_agreement=0.97) == "fail"
    assert verdict(answered(labelled=False), min_sqnr=70.0) == "fail"
    assert verdict(answered(), latency_p50=0.0009) == "fail"
    assert verdict(answered(), latency_p90=0.0019) == "fail"
    assert verdict(answered(), peak_memory=10**8 - 1) == "fail"
    assert verdict(answered(), load_time=0.09) == "fail"


def test_budgets_of_memory_and_load_time_are_judged_on_a_bound_of_six_processes() -> None:
    apart = Fresh([0.1, 0.1, 0.1, 0.1, 0.1, 0.2], [100, 100, 100, 100, 100, 110]).starts
    taken = dataclasses.replace(MEASURED, starts=apart)

    def said(starts: Starts, **given: float) -> Check:
        limits = Budgets(**given)  # type: ignore[arg-type]
        measured = dataclasses.replace(taken, starts=starts)
        (one,) = budgets(limits, SIDE, None, measured)
        assert isinstance(one, Check)
        return one

    assert said(apart, peak_memory=110).verdict == "pass"
    open_ = said(apart, peak_memory=109)
    assert (open_.verdict, open_.candidate) == ("inconclusive", 110)
    assert "inconclusive: bound of the median of 6 fresh processes, which is 100" in open_.note
    assert said(apart, load_time=0.15).verdict == "inconclusive"
    assert said(apart, load_time=0.09).verdict == "fail"
    few = said(Fresh([0.1] * 5, [100] * 5).starts, peak_memory=200)
    assert few.verdict == "inconclusive"
    assert "a bound takes 6" in few.note
    assert verdict(answered(), file_size=3999) == "fail"


def test_what_is_proven_passes() -> None:
    assert verdict(answered(samples=2000), max_drop=0.01) == "pass"
    assert verdict(answered(samples=2000, labelled=False), min_agreement=0.97) == "pass"
    assert verdict(answered(), latency_p50=0.0012) == "pass"


@pytest.mark.parametrize("accuracy", [None, answered(), answered(labelled=False)], ids=["stored", "labels", "none"])
def test_no_limit_of_the_answers_vanishes(accuracy: Accuracy | None) -> None:
    limits = {"max_drop": 0.01, "min_agreement": 0.97, "min_cosine": 0.99, "min_sqnr": 20.0}
    shown = found(accuracy, **limits)
    assert set(shown) == {name.replace("_", "-") for name in limits}
    left = {name: one.reason for name, one in shown.items() if isinstance(one, NotCompared)}
    if accuracy is None:
        assert set(left) == set(shown)
        assert "no outputs" in left["min-cosine"]
    else:
        assert set(left) == ({"min-agreement", "min-cosine"} if accuracy.labelled else {"max-drop"})


def test_what_is_no_classifier_says_so() -> None:
    plain = dataclasses.replace(answered(labelled=False), agreement=None)
    agreement = found(plain, min_agreement=0.97)["min-agreement"]
    assert isinstance(agreement, NotCompared)
    assert "no classifier" in agreement.reason


def test_a_gate_makes_no_image() -> None:
    image = found(answered(), image_size=10**6)["image-size"]
    assert isinstance(image, NotCompared)
    assert "makes no image" in image.reason


def test_instructions_are_counted_or_said_not_to_be() -> None:
    more = instructions(0.01, (1_030_000, 1_000_000))
    assert isinstance(more, Check)
    assert (more.verdict, more.unit) == ("fail", "count")
    alike = instructions(0.01, (1_000_100, 1_000_000))
    assert isinstance(alike, Check)
    assert alike.verdict == "pass"
    none = instructions(0.01, None)
    assert isinstance(none, NotCompared)
    assert "counters" in none.reason


@pytest.mark.parametrize(("now", "verdict"), [(1019, "pass"), (1021, "fail"), (500, "pass")])
def test_more_memory_of_the_card_than_the_margin_fails(now: int, verdict: str) -> None:
    found = gpu_memory(0.02, (now, OWN), (1000, OWN))
    assert isinstance(found, Check)
    assert found.verdict == verdict


def test_memory_of_the_whole_card_or_of_none_is_not_compared() -> None:
    whole = gpu_memory(0.02, (1000, OWN), (1000, "of the whole card"))
    assert isinstance(whole, NotCompared)
    assert "whose" in whole.reason
    unread = gpu_memory(0.02, (None, "the driver is too old"), (1000, OWN))
    assert unread == NotCompared("gpu-memory", "the driver is too old")


@pytest.mark.parametrize(
    ("card", "stored", "expected"),
    [
        ("A card, driver 580.1", {"gpu-memory": 1000.0}, "fail"),
        ("A card, driver 590.2", {"gpu-memory": 1000.0}, "the stored baseline ran on A card, driver 590.2"),
        ("A card, driver 580.1", {}, "the stored baseline holds none"),
    ],
)
def test_stored_memory_of_a_card_is_compared_on_that_card_and_driver_alone(
    card: str, stored: dict[str, float], expected: str
) -> None:
    method = {"scenario": "single-stream", "threads": 1, "batch": 1, "offline_batch": 8}
    machine = {"cpu": "A CPU", "gpu": card, **versions_of("onnxruntime")}
    before = Stored(Path("s.json"), SIDE, machine, method, stored, (10**8,) * 6, None, None, None)  # type: ignore[arg-type]
    measured = dataclasses.replace(MEASURED, gpu=CARD)
    found = {one.metric: one for one in stored_memory(Margins(), before, measured, None, cpu="A CPU")}["gpu-memory"]
    assert (found.verdict if isinstance(found, Check) else found.reason) == expected
