"""Judged candidates with made-up numbers, for tests of those who decide among them."""

from __future__ import annotations

import dataclasses

from mlopt.choose import Judged, judge
from mlopt.measure.alone import Fresh
from mlopt.measurement import Accuracy, Interval, Latency, Measurement
from mlopt.profile import Budgets, Profile
from mlopt.units import Fraction


def speed(low: float, value: float, high: float) -> Interval:
    return Interval(value, low, high, "made up")


def measured(faster: Interval, *, memory: int = 10**8, p99: float = 0.01) -> Measurement:
    return Measurement(
        device="a machine",
        grade="measured",
        runtime="onnxruntime",
        scenario="single-stream",
        threads=1,
        batch=1,
        latency=Latency(p99 / 2, p99, p99, p99 / 3, p99, 1000, (), p99 * 0.6, p99, p99),
        speedup=faster,
        rounds=20,
        throughput=100.0,
        offline_batch=8,
        load_time=0.1,
        first_inference=0.01,
        peak_memory=memory,
        memory_after_import=1,
        memory_after_load=2,
        major_faults=0,
        starts=Fresh([0.1] * 6, [memory] * 6).starts,
        gpu=None,
    )


def accuracy(drop: Interval | None = None, *, top1: float = 0.7, cosine: float = 1.0) -> Accuracy:
    return Accuracy(
        device="a machine",
        grade="measured",
        samples=400,
        labelled=drop is not None,
        generated=False,
        top1=top1 if drop else None,
        baseline_top1=0.7 if drop else None,
        drop=drop,
        agreement=None if drop else Interval(0.99, 0.97, 1.0, "made up"),
        cosine=cosine,
        sqnr=40.0,
    )


LITTLE = Interval(0.005, -0.002, 0.012, "made up")
MUCH = Interval(0.03, 0.01, 0.05, "made up")
NONE = Interval(0.0, 0.0, 0.0, "the same model")
PROFILE = Profile("p", "", budgets=Budgets(max_drop=Fraction(0.02)))


def judged(
    name: str,
    faster: Interval | None,
    drop: Interval = LITTLE,
    *,
    size: int = 100,
    memory: int = 10**8,
    sqnr: float = 40.0,
    profile: Profile = PROFILE,
    work: str = "",
) -> Judged:
    measurement = measured(faster, memory=memory) if faster else None
    found = dataclasses.replace(accuracy(drop), sqnr=sqnr)
    verdicts = judge(profile.budgets, file_size=size, accuracy=found, measurement=measurement)
    return Judged(name, size, found, measurement, verdicts, work)


BASELINE = judged("baseline", speed(1.0, 1.0, 1.0), NONE, size=400)
