"""Verdicts in words: what is missed, what nobody reaches, and who comes nearest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from mlopt.measurement import BudgetVerdict
from mlopt.profile import ASKED
from mlopt.units import format_bytes, format_percent, format_points, format_seconds

_FLAGS: Final = {budget.replace("_", "-"): f"--{name.replace('_', '-')}" for name, budget in ASKED.items()}
_AT_LEAST: Final = ("min-agreement", "min-cosine", "min-sqnr", "throughput")
_BOUNDS: Final = ("max-drop", "min-agreement", "latency-p50", "latency-p90", "latency-p99")
_SIZES: Final = ("peak-memory", "file-size", "image-size")
# Clocks and memory differ a little from run to run; sizes and answers do not.
_VARIES: Final = ("latency", "load-time", "peak-memory", "throughput")


def out_of_reach(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> tuple[str, ...]:
    """A sentence for each budget that no candidate keeps (all measured, all missed), with the nearest and its figure;
    or, where each is kept by one of them and all by none, the one sentence that says so.

    `verdicts` by candidate's name. Empty when a candidate misses nothing.
    """
    of_budget: dict[str, list[tuple[str, BudgetVerdict]]] = {}
    for name, given in verdicts.items():
        for verdict in given:
            of_budget.setdefault(verdict.budget, []).append((name, verdict))
    found = []
    judged = sum(1 for given in verdicts.values() if given)
    for budget, pairs in of_budget.items():
        if len(pairs) == judged and all(verdict.outcome == "missed" for _, verdict in pairs):
            name, nearest = min(pairs, key=lambda pair: abs((pair[1].actual or 0.0) - pair[1].limit))
            found.append(f"{missed(nearest)}, and that is {name}, the nearest to {budget}")
    if not found and (misses := _misses(verdicts)):
        named = dict.fromkeys(verdict.budget for given in misses.values() for verdict in given)
        found.append(f"each of {', '.join(named)} is kept by one or another, and all at once by none")
    return tuple(found)


def nearest(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> str:
    """Which candidate comes nearest to keeping all budgets at once, and with which it would; empty when one keeps all.

    Nearest is whose worst miss is the smallest part of its budget. What is unmeasured counts as neither.
    """
    misses = _misses(verdicts)
    if not misses:
        return ""
    name = min(misses, key=lambda one: max(map(_excess, misses[one])))
    return f"{name} comes nearest: it keeps every budget with {' and '.join(map(_with_room, misses[name]))}"


def keepers(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> tuple[str, ...]:
    """The candidates that were judged and miss nothing."""
    return tuple(name for name, given in verdicts.items() if given and not _missed_of(given))


def missed(verdict: BudgetVerdict) -> str:
    """What is, beside what was to be."""
    assert verdict.actual is not None
    show = _show(verdict.budget)
    bound = " at 95 % confidence" if verdict.budget in _BOUNDS else ""
    note = f" ({verdict.note})" if verdict.note else ""
    return f"{verdict.budget} is {show(verdict.actual)}{bound}, the budget is {show(verdict.limit)}{note}"


def enough(verdict: BudgetVerdict) -> float:
    """A budget in round figures that this candidate would keep: on the far side of what it has.

    >>> enough(BudgetVerdict("file-size", 100, 85_123, "missed", "measured"))
    85200.0
    """
    assert verdict.actual is not None
    if not verdict.actual:
        return 0.0
    digits = 2 if verdict.budget.startswith(_VARIES) else 3
    scale = 10.0 ** (digits - 1 - math.floor(math.log10(abs(verdict.actual))))
    if verdict.budget == "max-drop":
        scale = 1000.0  # tenths of a point
    away = math.floor if verdict.budget in _AT_LEAST else math.ceil
    return away(round(verdict.actual * scale, 6)) / scale


def _misses(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> dict[str, list[BudgetVerdict]]:
    """What each candidate misses; empty when one that was judged misses nothing."""
    found = {name: _missed_of(given) for name, given in verdicts.items() if given}
    return found if all(found.values()) else {}


def _missed_of(given: Sequence[BudgetVerdict]) -> list[BudgetVerdict]:
    return [verdict for verdict in given if verdict.outcome == "missed"]


def _with_room(verdict: BudgetVerdict) -> str:
    """The budget as it would be typed."""
    shown = _show(verdict.budget)(enough(verdict))
    if flag := _FLAGS.get(verdict.budget):
        return f"{flag} {shown.replace(' points', '%').replace(' ', '').replace('µ', 'u')}"
    return f"{verdict.budget} {shown} in its profile"


def _excess(verdict: BudgetVerdict) -> float:
    least = 1e-3 if verdict.budget == "max-drop" else 1e-9  # of no drop at all: a tenth of a point
    return abs((verdict.actual or 0.0) - verdict.limit) / max(abs(verdict.limit), least)


def _show(budget: str) -> Callable[[float], str]:
    if budget == "max-drop":
        return format_points
    if budget == "min-agreement":
        return format_percent
    if budget in _SIZES:
        return _size
    return format_seconds if budget.startswith("latency") or budget == "load-time" else _number


def _number(value: float) -> str:
    return f"{value:.4g}"


def _size(value: float) -> str:
    return format_bytes(int(value))
