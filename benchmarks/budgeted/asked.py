"""Requests with random budgets, and mlopt's answers to them, by the very functions that decide in `mlopt compile`."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from watched import watch

from mlopt import units
from mlopt.assess import assess, check_baseline
from mlopt.build import build
from mlopt.choose import choose, judge
from mlopt.intervals import paired_difference
from mlopt.prepare import prepare
from mlopt.profile import narrowed
from mlopt.progress import Progress
from mlopt.request import Request
from mlopt.verdicts import nearest, out_of_reach

if TYPE_CHECKING:
    from mlopt.artifact import Artifact
    from mlopt.choose import Judged
    from mlopt.prepare import Prepared

# Small and large, int8 and not, in both runtimes, searched to the budget and not; and few, for each takes its time.
RECIPES: Final = (
    *("fp16", "int8-static", "int8-repaired", "int8-mixed"),
    *("openvino-bf16", "openvino-int8", "openvino-int8-mixed"),
)
CALIBRATION: Final = 128
PROFILE: Final = """\
schema = 1
summary = "the method of benchmarks/budgets.py; every budget is a flag"
[budgets]
max-drop = "3%"
[method]
rounds = 10
seconds = "5s"
"""
_KINDS: Final = {
    "max_drop": units.Fraction,
    "max_latency": units.Seconds,
    "max_memory": units.Bytes,
    "max_size": units.Bytes,
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """All candidates of a model, made and judged for one budget of accuracy; the baseline first."""

    prepared: Prepared
    artifacts: Mapping[str, Artifact]
    candidates: Sequence[Judged]


@dataclass(frozen=True, slots=True)
class Answer:
    """`kind` is ships, infeasible, or misses: it ships what keeps not all, and does not say that nothing does.

    `nearest` holds the budgets with which the candidate that was named is said to keep all.
    """

    kind: str
    winner: str
    said: str
    nearest: Mapping[str, float]


def judgement(home: Path, store: Path, drop: float) -> Judgement:
    """What `mlopt compile` does before it chooses."""
    (home / "method.toml").write_text(PROFILE)
    request = Request(
        model=home / "model.onnx",
        samples=str(home / "given.npz"),
        calibration=CALIBRATION,
        profile=str(home / "method.toml"),
        recipes=RECIPES,
        max_drop=drop,
        store=store,
        out=home / "out",
        image=False,
    )
    progress = Progress(quiet=True)
    prepared = prepare(request, progress)
    check_baseline(prepared, progress)
    built = build(prepared, prepared.plan.candidates, progress)
    return Judgement(prepared, built.artifacts, assess(prepared, built.artifacts, built.failures, progress))


def drawn_drop(chance: random.Random, samples: int) -> float:
    """From about what so many samples can prove at all to six times that, in tenths of a point."""
    least = paired_difference(0, 0, samples).high
    return math.ceil(1000 * least * math.exp(chance.uniform(0, math.log(6)))) / 1000


def drawn(chance: random.Random, found: Judgement, drop: float) -> dict[str, float]:
    """The budgets of one request: the drop, and some of the others, each about what one of the candidates reaches."""
    limits = {"max_drop": drop}
    for name in chance.sample(("max_latency", "max_size", "max_memory"), chance.choice((1, 1, 2, 2, 3))):
        one = chance.choice(found.candidates)
        assert one.measurement
        near = {
            "max_latency": one.measurement.latency.p50 * chance.uniform(0.85, 1.4),
            "max_size": one.file_size * chance.uniform(0.85, 1.4),
            "max_memory": one.measurement.peak_memory * chance.uniform(0.95, 1.15),
        }[name]
        limits[name] = near if name == "max_latency" else round(near)
    return limits


def answer(found: Judgement, limits: Mapping[str, float]) -> Answer:
    """The verdicts, the choice, and what is said where none keeps all."""
    profile = narrowed(found.prepared.profile, limits)
    baseline, *others = (
        dataclasses.replace(
            one,
            verdicts=judge(
                profile.budgets, file_size=one.file_size, accuracy=one.accuracy, measurement=one.measurement
            ),
        )
        for one in found.candidates
    )
    choice = choose(baseline, others, profile, ship=None, device=found.prepared.target.name)
    verdicts = {one.name: one.verdicts for one in (baseline, *others)}
    missed = any(verdict.outcome == "missed" for verdict in verdicts[choice.winner])
    impossible, near = out_of_reach(verdicts), nearest(verdicts)
    kind = "infeasible" if impossible else "misses" if missed else "ships"
    said = "; ".join([*impossible, near]) if impossible else choice.why
    return Answer(kind, choice.winner, said, _limits_in(near))


def command(found: Judgement, limits: Mapping[str, float], store: Path) -> tuple[Answer, dict[str, Any]]:
    """The answer of `mlopt compile` itself, in a process of its own, with its report; it times everything again."""
    said = found.prepared.request
    flags = [f"{_flag(name)}={_typed(name, value)}" for name, value in limits.items()]
    recipes = [flag for recipe in said.recipes for flag in ("--recipe", recipe)]
    ended = watch(
        [
            *(sys.executable, "-m", "mlopt", "compile", str(said.model), "--samples", str(said.samples)),
            *("--calibration", str(said.calibration), "--profile", str(said.profile), *recipes, *flags),
            *("--cache-dir", str(store), "--out", str(said.out), "--no-image", "--quiet", "--json"),
        ]
    )
    kinds = {0: "ships", 1: "misses", 5: "infeasible"}
    if ended.code not in kinds:
        raise RuntimeError(f"mlopt compile ended with {ended.code}: {ended.stderr}")
    report: dict[str, Any] = json.loads(ended.stdout)
    told = ended.stderr if ended.code else report["why"]
    return Answer(kinds[ended.code], report["winner"], told.strip(), _limits_in(told)), report


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _typed(name: str, value: float) -> str:
    if name == "max_drop":
        return f"{value * 100:.12g}%"
    return f"{value:.12f}s" if name == "max_latency" else f"{value:.0f}B"


def _limits_in(told: str) -> dict[str, float]:
    """The budgets that stand in a sentence as flags, read as the command line reads them."""
    words = told.replace(";", " ").split()
    flags = {_flag(name): name for name in _KINDS}
    pairs = [(flags[word], value) for word, value in pairwise(words) if word in flags]
    return {name: units.parse(_KINDS[name], value) for name, value in pairs if value[0].isdigit()}
