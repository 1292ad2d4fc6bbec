"""What the numbers of a history mean: which way is better, and which of them are the machine's as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mlopt.report import text
from mlopt.report.verdict import budget_name, budget_number


@dataclass(frozen=True, slots=True)
class Metric:
    """`kind`: a `clock` is only of one machine and moment, `ratio` is to what ran side by side, `memory` is of one
    kind of machine, `answers` of the same samples, and what is `counted` has no noise at all."""

    kind: str
    larger_is_better: bool = False


METRICS: Final[Mapping[str, Metric]] = {
    "relative-latency": Metric("ratio"),
    "latency-p50": Metric("clock"),
    "latency-p90": Metric("clock"),
    "latency-p99": Metric("clock"),
    "throughput": Metric("clock", larger_is_better=True),
    "server-rate": Metric("clock", larger_is_better=True),
    "cold-start": Metric("clock"),
    "load-time": Metric("clock"),
    "first-inference": Metric("clock"),
    "peak-memory": Metric("memory"),
    "file-size": Metric("counted"),
    "top1": Metric("answers", larger_is_better=True),
    "drop": Metric("answers"),
    "agreement": Metric("answers", larger_is_better=True),
}


def shown(metric: str, value: float | None) -> str:
    """A number in its unit.

    >>> shown("relative-latency", 0.5), shown("top1", 0.5), shown("latency-p50", 0.001)
    ('0.500×', '50.0 %', '1.00 ms')
    """
    if metric == "relative-latency":
        return text.ABSENT if value is None else f"{value:.3f}×"
    if metric in ("cold-start", "first-inference"):
        return text.seconds(value)
    if metric == "server-rate":
        return text.rate(value)
    return text.percent(value) if metric == "top1" else budget_number(metric, value)


def title(metric: str) -> str:
    """As a heading says it.

    >>> title("relative-latency"), title("latency-p50")
    ('latency, times the baseline beside it', 'latency p50')
    """
    return "latency, times the baseline beside it" if metric == "relative-latency" else budget_name(metric)


def moved(metric: str, before: float, after: float) -> str:
    """By how much a number moved: points of a share, percent of all else.

    >>> moved("top1", 0.5, 0.45), moved("latency-p50", 2.0, 2.1)
    ('-5.0 pt', '+5.0 %')
    """
    if METRICS[metric].kind == "answers":
        return text.points(after - before)
    return f"{(after / before - 1) * 100:+.1f} %" if before else text.ABSENT


def is_worse(metric: str, before: float, after: float) -> bool:
    return after < before if METRICS[metric].larger_is_better else after > before
