"""Numbers and how each was obtained: nothing here has a default for device, grade, method or count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Grade = Literal["measured", "emulated", "estimated", "declared", "unmeasured"]
"""`measured` on the named device; `emulated` (QEMU, CPU named); `estimated` by a named model; `declared` by a
vendor; `unmeasured`: there is no number."""

Outcome = Literal["met", "missed", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its two-sided 95 % interval; `method` names the statistic."""

    value: float
    low: float
    high: float
    method: str


@dataclass(frozen=True, slots=True)
class Latency:
    """Single-query latencies in seconds. Percentiles are nearest rank over all `queries` of all rounds.

    `p50_high` is the upper end of the median's 95 % interval: queries of one round share what disturbs them, so that
    it comes from the medians of the rounds, or the baseline's median over the lower end of `speedup` if that is more.
    `p90_high` and `p99_high` are theirs, by how much rounds differ, or MLPerf's early-stopping estimate if that is
    more; of too few queries for one the slowest of all.
    """

    p50: float
    p90: float
    p99: float
    minimum: float
    maximum: float
    queries: int
    samples: tuple[float, ...]
    p50_high: float
    p90_high: float
    p99_high: float


@dataclass(frozen=True, slots=True)
class Starts:
    """What every fresh process that had the model took: seconds to load it, bytes at its peak (VmHWM). The intervals
    are those of the medians, and what budgets are judged on."""

    load_times: tuple[float, ...]
    peaks: tuple[int, ...]
    load_time: Interval
    peak_memory: Interval

    @property
    def processes(self) -> int:
        return len(self.peaks)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one candidate did in one runtime on one device, in rounds interleaved with the baseline.

    Times in seconds, memory in bytes, `throughput` in samples per second at `offline_batch`.
    `speedup` is baseline / candidate (above 1: the candidate is faster), median of per-round ratios.
    `load_time` and `peak_memory` (VmHWM) are the medians of the fresh processes in `starts`, each of which had only
    this model; `major_faults` is how many pages the one that was timed had to read from disk during the queries.
    """

    device: str
    grade: Grade
    runtime: str
    scenario: str
    threads: int
    batch: int
    latency: Latency
    speedup: Interval
    rounds: int
    throughput: float
    offline_batch: int
    load_time: float
    first_inference: float
    peak_memory: int
    memory_after_import: int
    memory_after_load: int
    major_faults: int
    starts: Starts

    @property
    def thrashes(self) -> bool:
        """Whether it runs, but in so little memory that a query has had to read what was thrown away before."""
        return self.major_faults >= self.latency.queries


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How a candidate answers against the fp32 baseline, on the same samples, sample by sample.

    Fractions, not percent. `top1`, `baseline_top1` and `drop` need labels; `agreement` (same arg-max)
    needs a classifier; `cosine` is the smallest over outputs of the mean per-sample cosine; `sqnr` in
    decibel is 10·log10(Σ baseline² / Σ (baseline - candidate)²), the smallest over outputs.
    """

    device: str
    grade: Grade
    samples: int
    labelled: bool
    generated: bool
    top1: float | None
    baseline_top1: float | None
    drop: Interval | None
    agreement: Interval | None
    cosine: float
    sqnr: float


@dataclass(frozen=True, slots=True)
class BudgetVerdict:
    """One budget of the profile against one number. `unmeasured` is never `met`."""

    budget: str
    limit: float
    actual: float | None
    outcome: Outcome
    grade: Grade
    note: str = ""


@dataclass(frozen=True, slots=True)
class OutputParity:
    """How far one output of the exported model is from its source framework.

    `max_relative` is max |a - b| / (|a| + 1e-3·max|a|), with a the source: small values near zero
    do not blow it up, a shifted scale does.
    """

    output: str
    batch: int
    max_absolute: float
    max_relative: float
    cosine: float
    tolerance: float
    source: str
