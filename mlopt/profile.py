"""What is good enough, and how it is measured: budgets and method. One file of `profiles/` each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from mlopt import paths, registry
from mlopt.errors import BudgetInfeasible
from mlopt.schema import GIVEN, read_toml
from mlopt.units import Bytes, Decibel, Fraction, Seconds

DEFAULT: Final = "balanced"

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
Goal = Literal["latency", "memory", "size"]

_STREAMS: Final = 8  # samples that arrive together in MLPerf's multi-stream scenario
_SECONDS: Final = Seconds(20.0)
_GATE_SECONDS: Final = Seconds(45.0)
_CLOCK_MARGIN: Final = Fraction(0.025)
_MEMORY_MARGIN: Final = Fraction(0.03)
_ARENA_MARGIN: Final = Fraction(0.01)
# Of six fresh processes of one model the most and the least differed by up to 0.6 % (docs/gating.md).
_GPU_MEMORY_MARGIN: Final = Fraction(0.02)
_SIZE_MARGIN: Final = Fraction(0.01)
_ANSWERS_MARGIN: Final = Fraction(0.005)

# What `mlopt compile` and mlopt.toml call the budgets that a person sets most; the rest are a profile's alone.
ASKED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "max_drop": "max_drop",
        "max_latency": "latency_p50",
        "max_memory": "peak_memory",
        "max_size": "file_size",
        "max_image_size": "image_size",
    }
)


@dataclass(frozen=True, slots=True)
class Budgets:
    """Limits; None is no limit. `throughput` counts samples per second in the offline scenario.

    `max_drop` bounds the drop of top-1 (0.005: half a point) and `min_agreement` the share of equal answers
    where there are no labels; both are judged on the worse end of the 95 % interval.
    """

    latency_p50: Seconds | None = None
    latency_p90: Seconds | None = None
    latency_p99: Seconds | None = None
    throughput: float | None = None
    load_time: Seconds | None = None
    peak_memory: Bytes | None = None
    file_size: Bytes | None = None
    image_size: Bytes | None = None
    max_drop: Fraction | None = None
    min_agreement: Fraction | None = None
    min_cosine: float | None = None
    min_sqnr: Decibel | None = None

    @property
    def of_starts(self) -> bool:
        """Whether one is judged on several fresh processes."""
        return self.load_time is not None or self.peak_memory is not None


@dataclass(frozen=True, slots=True)
class Method:
    """How candidates are timed. `seconds` bounds all timing of a run together, however many candidates there are.

    `batch` is the query of the scenario (in `multi-stream` 8 where it is 1), `offline_batch` that of throughput. Every
    round times every candidate.
    """

    scenario: Scenario = "single-stream"
    batch: int = 1
    offline_batch: int = 8
    threads: int = 1
    warm_up: int = 5
    rounds: int = 20
    seconds: Seconds = _SECONDS

    def __post_init__(self) -> None:
        for name in ("batch", "offline_batch", "threads", "rounds", "seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name.replace('_', '-')} is not more than 0")
        if self.warm_up < 0:
            raise ValueError("warm-up is less than 0")

    def asked(
        self, *, scenario: Scenario | None = None, threads: int | None = None, batch: int | None = None
    ) -> Method:
        """With what a person asked for; `batch` is that of a query, whatever the scenario."""
        scenario = scenario or self.scenario
        asked = replace(self, scenario=scenario, threads=threads or self.threads)
        if batch is None:
            return asked
        return replace(asked, offline_batch=batch) if scenario == "offline" else replace(asked, batch=batch)

    @property
    def query_batch(self) -> int:
        """The samples of one query of the scenario."""
        if self.scenario == "multi-stream" and self.batch == 1:
            return _STREAMS
        return self.offline_batch if self.scenario == "offline" else self.batch


@dataclass(frozen=True, slots=True)
class Margins:
    """By how much `mlopt gate` lets a candidate be worse than its baseline; None judges nothing.

    Shares of the baseline's value, `top1` of one: 0.005 is half a point. `cpu_time` is the time that a query keeps a
    core, whoever else waits for it; `instructions` what the processor counts of it; `arena_peak` what the runtime
    counted of its own memory; `gpu_memory` what a
    process holds of the card at most. `seconds` bound each of the two runs that a failure takes.
    """

    latency_p50: Fraction | None = _CLOCK_MARGIN
    latency_p95: Fraction | None = None
    cpu_time: Fraction | None = None
    peak_memory: Fraction | None = _MEMORY_MARGIN
    arena_peak: Fraction | None = _ARENA_MARGIN
    gpu_memory: Fraction | None = _GPU_MEMORY_MARGIN
    file_size: Fraction | None = _SIZE_MARGIN
    operators: Fraction | None = None
    instructions: Fraction | None = None
    top1: Fraction | None = _ANSWERS_MARGIN
    seconds: Seconds = _GATE_SECONDS

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise ValueError("seconds is not more than 0")
        for name in ("latency_p50", "latency_p95", "cpu_time"):
            if getattr(self, name) == 0:
                raise ValueError(f"{name.replace('_', '-')} is 0, and no clock can tell nothing from next to nothing")


@dataclass(frozen=True, slots=True)
class Profile:
    """`minimize` is what the winner is best at, among all that are inside every budget."""

    name: Annotated[str, GIVEN]
    summary: str
    minimize: Goal = "latency"
    budgets: Budgets = field(default_factory=Budgets)
    method: Method = field(default_factory=Method)
    gate: Margins = field(default_factory=Margins)


def profile_names() -> tuple[str, ...]:
    """Every declared profile, sorted."""
    return tuple(paths.declarations("profiles"))


def find_profile(name: str = DEFAULT) -> Profile:
    """The profile of that name or `.toml` path.

    Raises `UnknownName` with near names, `ConfigInvalid`, and `BudgetInfeasible` as `checked` does.
    """
    if paths.is_path(name):
        return _read(paths.given_file(name, "profile"))
    declared = paths.declarations("profiles")
    if name not in declared:
        raise registry.unknown("profile", name, tuple(declared))
    return _read(declared[name])


def narrowed(profile: Profile, asked: Mapping[str, float | None]) -> Profile:
    """The profile with the budgets that somebody asked for by the names of `ASKED` in the place of its own.

    Raises `BudgetInfeasible` as `checked` does.
    """
    given = {ASKED[name]: value for name, value in asked.items() if value is not None}
    if not given:
        return profile
    budgets = replace(profile.budgets, **given)  # type: ignore[arg-type]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None)
    return checked(replace(profile, budgets=budgets), where=f"{flags}, over profile {profile.name}")


def checked(profile: Profile, *, where: str) -> Profile:
    """The profile itself. Raises `BudgetInfeasible` for a budget that no model can keep, or two that exclude each
    other; `where` says who asked."""
    budgets = profile.budgets
    for one in fields(budgets):
        value = getattr(budgets, one.name)
        # No drop at all is a fair wish; a latency or a size of nothing is a slip of the pen.
        if value is not None and one.name not in ("max_drop", "min_agreement", "min_sqnr") and value <= 0:
            raise _infeasible(f"{one.name.replace('_', '-')} is not more than 0", where, "give it room")
    if budgets.min_cosine is not None and budgets.min_cosine > 1:
        raise _infeasible("min-cosine is more than 1, which no two answers reach", where, "write 0.99, or less")
    asked = (budgets.latency_p50, budgets.latency_p90, budgets.latency_p99)
    ordered = [limit for limit in asked if limit is not None]
    if ordered != sorted(ordered):
        what = "a lower percentile of latency has a larger budget than a higher one"
        raise _infeasible(what, where, "latency-p50 <= latency-p90 <= latency-p99")
    return profile


def _infeasible(what: str, where: str, next: str) -> BudgetInfeasible:
    return BudgetInfeasible(f"No model can keep this budget: {what}.", where=where, next=next)


def _read(path: Path) -> Profile:
    return checked(read_toml(path, Profile, name=path.stem), where=f"{path}: budgets")
