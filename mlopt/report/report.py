"""All that a run found out, as one value; every rendering (JSON, HTML, Markdown, terminal) reads only this."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Final

from mlopt.insight import Insight
from mlopt.measurement import Accuracy, BudgetVerdict, Measurement, OutputParity

SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """One input or output: `shape` holds ints, or names for dynamic dimensions."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    name: str
    format: str
    digest: str
    bytes: int
    parameters: int
    opset: int
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """`this_machine` decides whether clocks count: a number from here is never shown under another name. `engines_on`
    is the board that said what its own engines do, if one was asked."""

    name: str
    summary: str
    platform: str
    this_machine: bool
    unverified: tuple[str, ...]
    engines_on: str = ""


@dataclass(frozen=True, slots=True)
class SamplesFacts:
    """What was evaluated on. `assumed_preprocess`: nobody declared it, so accuracy may be understated."""

    source: str
    total: int
    calibration: int
    evaluation: int
    seed: int
    labelled: bool
    preprocess: Mapping[str, object] | None
    assumed_preprocess: bool


@dataclass(frozen=True, slots=True)
class StepFacts:
    """One link of a candidate's lineage."""

    step: str
    version: int
    options: Mapping[str, object]
    source: str
    tools: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class CandidateFacts:
    """One candidate with all its numbers. `eligible`: inside every budget and proven not worse than the baseline.

    `why_not` says in one sentence what disqualified it, empty for the winner. `failure` is set when a step or
    the runtime refused it, and then there are no numbers. `notes` say what its steps decided by themselves.
    """

    name: str
    summary: str
    precision: str
    runtime: str
    digest: str
    file_size: int
    lineage: tuple[StepFacts, ...]
    accuracy: Accuracy | None
    measurement: Measurement | None
    verdicts: tuple[BudgetVerdict, ...]
    eligible: bool
    pareto: bool
    why_not: str
    failure: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A recipe that the plan did not make a candidate of, and why."""

    recipe: str
    reason: str


@dataclass(frozen=True, slots=True)
class StepRun:
    """One step of this run: made now, or reused from the store."""

    step: str
    cached: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """The image's index digest, and per platform the layers with their compressed and unpacked bytes."""

    digest: str
    tag: str
    platforms: Mapping[str, tuple[tuple[str, int, int], ...]]


@dataclass(frozen=True, slots=True)
class Report:
    """`insight` is there where candidates were timed: the insides of the baseline and of what ships."""

    schema: int
    mlopt: str
    started: str
    seconds: float
    peak_memory: int
    command: tuple[str, ...]
    tools: Mapping[str, str]
    machine: Mapping[str, str]
    model: ModelFacts
    target: TargetFacts
    profile: Mapping[str, object]
    samples: SamplesFacts | None
    parity: tuple[OutputParity, ...]
    candidates: tuple[CandidateFacts, ...]
    left_out: tuple[LeftOut, ...]
    baseline: str
    winner: str
    why: str
    image: ImageFacts | None
    image_left_out: str
    steps: tuple[StepRun, ...]
    notes: tuple[str, ...]
    insight: Insight | None = None

    def candidate(self, name: str) -> CandidateFacts:
        return next(candidate for candidate in self.candidates if candidate.name == name)


def to_json(value: Any) -> Any:
    """Any of the values above as plain JSON types; infinities and NaN become null, which JSON can hold."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
