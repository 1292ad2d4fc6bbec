"""Numbers and how each was obtained: nothing here has a default for device, grade, method or count."""

from __future__ import annotations

from collections.abc import Mapping
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
class GpuClocks:
    """How a card ran: one reading of NVML after each round's queries, for a reading beside them would disturb them.

    Clocks in MHz of its multiprocessors (`sm`: the median; the lowest, and the highest that the card has) and memory,
    `power` in watts, `temperature` the highest in °C. `held_back` are what kept the clocks down, by in how many rounds:
    a reason that NVML gave, or a counter of such times that grew. None is what the card does not tell.
    """

    readings: int
    sm: int | None
    sm_lowest: int | None
    sm_highest: int | None
    memory: int | None
    memory_highest: int | None
    power: float | None
    power_limit: float | None
    temperature: int | None
    held_back: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Gpu:
    """What really ran on a GPU, and what that took of it.

    `nodes` are those of the runtime, by each that was to run them, `on_cpu` the operators of those that were left to
    the CPU. Latencies have the copies of inputs and outputs in them; `without_copies` is the median of queries, in
    seconds, whose inputs and outputs lie on the GPU. `memory` is the most that a fresh process held of it, in bytes,
    and `memory_method` whose memory that is. `unread` says what NVML did not tell, and why.
    """

    card: str
    name: str
    driver: str
    cuda_graph: bool
    nodes: Mapping[str, int]
    on_cpu: Mapping[str, int]
    without_copies: float | None
    memory: int | None
    memory_method: str
    clocks: GpuClocks | None
    unread: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one candidate did in one runtime on one device, in rounds interleaved with the baseline.

    Times in seconds, memory in bytes, `throughput` in samples per second at `offline_batch`.
    `speedup` is baseline / candidate (above 1: the candidate is faster), median of per-round ratios.
    `load_time` and `peak_memory` (VmHWM) are the medians of the fresh processes in `starts`, each of which had only
    this model; `major_faults` is how many pages the one that was timed had to read from disk during the queries. `gpu`
    is there where the runtime computes on one.
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
    gpu: Gpu | None

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
