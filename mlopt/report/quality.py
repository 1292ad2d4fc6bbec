"""Which number says how well candidates answer (top-1, agreement or SQNR), and its value for each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mlopt.measurement import Accuracy
from mlopt.report import text
from mlopt.report.report import Report

Kind = Literal["top1", "agreement", "sqnr", "none"]
Reader: TypeAlias = "Callable[[Accuracy], Level | None]"


@dataclass(frozen=True, slots=True)
class Level:
    """One candidate's quality with the bounds of its 95 % interval; fractions, or decibel for `sqnr`.

    Of a top-1 the bounds are those of the *paired* drop below the baseline: they say what the candidate
    costs on these samples, not how well either would do on others.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Quality:
    """The one axis on which this run can compare how well candidates answer. `limit` is the profile's, or None."""

    kind: Kind
    name: str
    axis: str
    limit: float | None
    levels: Mapping[str, Level]

    def show(self, value: float) -> str:
        return text.decibel(value) if self.kind == "sqnr" else text.percent(value)


def quality_of(report: Report) -> Quality:
    """The strongest kind that exists: labels beat agreement with the baseline, which beats SQNR."""
    known = {candidate.name: candidate.accuracy for candidate in report.candidates if candidate.accuracy}
    budgets = budgets_of(report)
    baseline_top1 = next((value.baseline_top1 for value in known.values() if value.baseline_top1 is not None), None)
    samples = max((value.samples for value in known.values()), default=0)
    if baseline_top1 is not None or any(value.top1 is not None for value in known.values()):
        drop = budgets.get("max-drop")
        limit = None if drop is None or baseline_top1 is None else baseline_top1 - drop
        levels = _levels(report, known, _top1, None if baseline_top1 is None else Level(*[baseline_top1] * 3))
        return Quality("top1", "top-1", f"top-1 accuracy on {text.count(samples)} labelled samples", limit, levels)
    if any(value.agreement is not None for value in known.values()):
        levels = _levels(report, known, _agreement, Level(1.0, 1.0, 1.0))
        axis = f"agreement with {report.baseline} on {text.count(samples)} samples"
        return Quality("agreement", "agreement", axis, budgets.get("min-agreement"), levels)
    if known:
        levels = _levels(report, known, _sqnr, Level(math.inf, math.inf, math.inf))
        return Quality("sqnr", "SQNR", f"SQNR against {report.baseline}", budgets.get("min-sqnr"), levels)
    return Quality("none", "accuracy", "accuracy", None, {})


def budgets_of(report: Report) -> dict[str, float]:
    """The profile's budgets that are set, by their name in TOML."""
    budgets = report.profile.get("budgets")
    if not isinstance(budgets, Mapping):
        return {}
    return {
        str(name).replace("_", "-"): float(limit)
        for name, limit in budgets.items()
        if isinstance(limit, (int, float)) and not isinstance(limit, bool)
    }


def _levels(report: Report, known: Mapping[str, Accuracy], read: Reader, baseline: Level | None) -> dict[str, Level]:
    levels: dict[str, Level] = {}
    for candidate in report.candidates:
        accuracy = known.get(candidate.name)
        level = read(accuracy) if accuracy else None
        if level is None and candidate.name == report.baseline and not candidate.failure:
            level = baseline  # compared with itself: by definition, so there may be no accuracy of its own
        if level is not None and not math.isnan(level.value):
            levels[candidate.name] = level
    return levels


def _top1(accuracy: Accuracy) -> Level | None:
    if accuracy.top1 is None:
        return None
    if accuracy.drop is None or accuracy.baseline_top1 is None:
        return _share(accuracy.top1, accuracy.top1, accuracy.top1)
    return _share(
        accuracy.top1, accuracy.baseline_top1 - accuracy.drop.high, accuracy.baseline_top1 - accuracy.drop.low
    )


def _agreement(accuracy: Accuracy) -> Level | None:
    interval = accuracy.agreement
    return None if interval is None else _share(interval.value, interval.low, interval.high)


def _share(*bounds: float) -> Level:
    """An interval around a share can reach beyond all or nothing; the share cannot."""
    return Level(*(bound if math.isnan(bound) else min(max(bound, 0.0), 1.0) for bound in bounds))


def _sqnr(accuracy: Accuracy) -> Level | None:
    return Level(accuracy.sqnr, accuracy.sqnr, accuracy.sqnr)
