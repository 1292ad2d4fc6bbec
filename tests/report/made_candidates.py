"""Candidates of one run as a report holds them: int8-static wins, the others lose in the usual ways."""

from __future__ import annotations

import random
from dataclasses import replace

from mlopt.measure.alone import Fresh
from mlopt.measurement import Accuracy, BudgetVerdict, Interval, Latency, Measurement
from mlopt.report.report import CandidateFacts, StepFacts

DEVICE = "Intel Xeon Processor @ 2.60GHz, 2 cores"
NOTES = {
    "int8-static": (
        "3 of 26 groups of nodes stay in floating point (7% of the work): conv1, fire2/squeeze, fire3/expand",
        "2.10% of answers expected to change, +0.21 points of top-1, SQNR 27.1 dB (3 evaluations)",
    )
}


def made_candidates() -> tuple[CandidateFacts, ...]:
    candidates = (
        _candidate(
            "fp32",
            "fp32",
            4_951_234,
            p50=6.33e-3,
            speedup=(1.0, 1.0, 1.0),
            top1=0.489,
            drop=(0, 0, 0),
            sqnr=float("inf"),
        ),
        _candidate(
            "fp16",
            "fp16",
            2_488_102,
            p50=7.81e-3,
            speedup=(0.81, 0.80, 0.82),
            top1=0.489,
            drop=(0.0, -0.004, 0.004),
            sqnr=61.3,
        ),
        _candidate(
            "int8-dynamic",
            "int8",
            1_301_877,
            p50=11.2e-3,
            speedup=(0.565, 0.56, 0.571),
            top1=0.476,
            drop=(0.0132, -0.003, 0.0296),
            sqnr=24.8,
        ),
        _candidate(
            "int8-static",
            "int8",
            1_289_440,
            p50=2.31e-3,
            speedup=(2.741, 2.699, 2.788),
            top1=0.4825,
            drop=(0.0066, -0.0043, 0.0178),
            sqnr=21.9,
        ),
        _candidate(
            "int4-weights",
            "int4",
            861_020,
            p50=6.02e-3,
            speedup=(1.051, 1.04, 1.062),
            top1=0.401,
            drop=(0.088, 0.059, 0.117),
            sqnr=11.2,
        ),
    )
    whys = {
        "fp32": "int8-static ships instead",
        "fp16": "it is not proven faster than the baseline: 0.81× [0.80, 0.82]",
        "int8-dynamic": "its max-drop is 3.0 pt, the budget is 2.0 pt",
        "int4-weights": "its max-drop is 11.7 pt, the budget is 2.0 pt",
    }
    return tuple(
        replace(
            candidate,
            why_not=whys.get(candidate.name, ""),
            eligible=candidate.name == "int8-static",
            pareto=candidate.name in ("fp32", "int8-static"),
            verdicts=_verdicts(candidate),
        )
        for candidate in candidates
    )


def _candidate(
    name: str,
    precision: str,
    file_size: int,
    *,
    p50: float,
    speedup: tuple[float, float, float],
    top1: float,
    drop: tuple[float, float, float],
    sqnr: float,
) -> CandidateFacts:
    chance = random.Random(name)
    samples = tuple(
        p50 * chance.lognormvariate(0, 0.035) * (1 + (chance.random() < 0.02) * chance.random()) for _ in range(400)
    )
    ordered = sorted(samples)
    measurement = Measurement(
        device=DEVICE,
        grade="measured",
        runtime="onnxruntime 1.31.1 CPU",
        scenario="single-stream",
        threads=2,
        batch=1,
        latency=Latency(
            ordered[199],
            ordered[359],
            ordered[395],
            ordered[0],
            ordered[-1],
            400,
            samples,
            ordered[219],
            ordered[369],
            ordered[399],
        ),
        speedup=Interval(*speedup, "bootstrap over rounds"),
        rounds=20,
        throughput=1.35 / p50,
        offline_batch=8,
        load_time=0.021 + file_size * 4e-9,
        first_inference=p50 * 2.2,
        peak_memory=58_000_000 + file_size * 4,
        memory_after_import=41_000_000,
        memory_after_load=44_000_000 + 2 * file_size,
        major_faults=0,
        starts=Fresh([0.021 + file_size * 4e-9], [58_000_000 + file_size * 4]).starts,
        gpu=None,
    )
    accuracy = Accuracy(
        device=DEVICE,
        grade="measured",
        samples=356,
        labelled=True,
        generated=False,
        top1=top1,
        baseline_top1=0.489,
        drop=Interval(*drop, "paired, Tango score"),
        agreement=Interval(1.0 if sqnr > 100 else 0.95, 0.93, 1.0 if sqnr > 100 else 0.97, "Wilson"),
        cosine=1.0 if sqnr > 100 else 1 - 10 ** (-sqnr / 10) / 2,
        sqnr=sqnr,
    )
    tools = {"onnx": "1.20.0", "onnxruntime": "1.31.1"}
    lineage: tuple[StepFacts, ...] = (StepFacts("optimize-graph", 1, {"level": "extended"}, "3f" * 32, tools),)
    if name != "fp32":
        lineage += (
            StepFacts(f"make-{name}", 2, {"per_channel": True, "calibration": "sha256:" + "9a" * 32}, "71" * 32, tools),
        )
    return CandidateFacts(
        name=name,
        summary=f"{precision} weights, made by {name}",
        precision=precision,
        runtime="onnxruntime",
        digest=f"{chance.getrandbits(256):064x}",
        file_size=file_size,
        lineage=lineage,
        accuracy=accuracy,
        measurement=measurement,
        verdicts=(),
        eligible=False,
        pareto=False,
        why_not="",
        failure="",
        notes=NOTES.get(name, ()),
    )


def _verdicts(candidate: CandidateFacts) -> tuple[BudgetVerdict, ...]:
    assert candidate.measurement
    assert candidate.accuracy
    assert candidate.accuracy.drop
    p99, memory, drop = (
        candidate.measurement.latency.p99,
        candidate.measurement.peak_memory,
        candidate.accuracy.drop.high,
    )
    return (
        BudgetVerdict("latency-p99", 0.033, p99, "met" if p99 <= 0.033 else "missed", "measured"),
        BudgetVerdict("peak-memory", 512 * 2**20, memory, "met" if memory <= 512 * 2**20 else "missed", "measured"),
        BudgetVerdict(
            "max-drop",
            0.02,
            drop,
            "met" if drop <= 0.02 else "missed",
            "measured",
            "" if drop <= 0.02 else "about 900 samples would prove it",
        ),
    )
