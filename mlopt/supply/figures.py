"""What was measured of the model that ships, as a model card writes it: a name, a number, and where it holds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlopt.measurement import Accuracy, Interval, Measurement
    from mlopt.report.report import CandidateFacts


@dataclass(frozen=True, slots=True)
class Figure:
    """`slice` says of which samples or which device the number is, and its grade; `interval` is of 95 %."""

    type: str
    value: str
    slice: str
    interval: tuple[str, str] | None = None


def figures_of(shipped: CandidateFacts) -> tuple[Figure, ...]:
    """Every number that was taken; nothing for those that were not."""
    found: list[Figure] = []
    if shipped.accuracy:
        found += _of_answers(shipped.accuracy)
    if shipped.measurement:
        found += _of_clocks(shipped.measurement)
    found.append(Figure("file size in bytes", str(shipped.file_size), "grade measured"))
    return tuple(found)


def _of_answers(accuracy: Accuracy) -> Iterator[Figure]:
    kind = "generated inputs" if accuracy.generated else "labelled samples" if accuracy.labelled else "samples"
    where = f"{accuracy.samples} {kind}, held out; {accuracy.device}; grade {accuracy.grade}"
    if accuracy.top1 is not None:
        yield Figure("top-1", _number(accuracy.top1), where)
    if accuracy.baseline_top1 is not None:
        yield Figure("top-1 of the original", _number(accuracy.baseline_top1), where)
    if accuracy.drop:
        yield _bounded("top-1 drop", accuracy.drop, where)
    if accuracy.agreement:
        yield _bounded("answers like the original's", accuracy.agreement, where)
    yield Figure("cosine to the original", _number(accuracy.cosine), where)
    if math.isfinite(accuracy.sqnr):
        yield Figure("SQNR in decibel", _number(accuracy.sqnr), where)


def _of_clocks(taken: Measurement) -> Iterator[Figure]:
    threads = "1 thread" if taken.threads == 1 else f"{taken.threads} threads"
    where = (
        f"{taken.device}; {taken.runtime}, {taken.scenario}, batch {taken.batch}, {threads}; "
        f"{taken.latency.queries} queries in {taken.rounds} rounds; grade {taken.grade}"
    )
    yield Figure("latency p50 in seconds", _number(taken.latency.p50), where)
    yield Figure("latency p90 in seconds", _number(taken.latency.p90), where)
    yield Figure("latency p99 in seconds", _number(taken.latency.p99), where)
    yield _bounded("speed-up over the original", taken.speedup, where)
    yield Figure(f"samples per second at batch {taken.offline_batch}", _number(taken.throughput), where)
    yield Figure("load time in seconds", _number(taken.load_time), where)
    yield Figure("peak memory in bytes", str(taken.peak_memory), where)


def _bounded(name: str, interval: Interval, where: str) -> Figure:
    bounds = _number(interval.low), _number(interval.high)
    return Figure(name, _number(interval.value), f"{where}; {interval.method}", bounds)


def _number(value: float) -> str:
    return f"{value:.6g}"
