"""Verdicts in words: what is missed, what nobody reaches, and who comes nearest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlopt.measurement import BudgetVerdict
from mlopt.units import format_bytes, format_percent, format_points, format_seconds


def out_of_reach(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> tuple[str, ...]:
    """For each budget that no candidate keeps (all measured, all missed) a sentence with the nearest and its figure.

    `verdicts` by candidate's name. Empty when every budget is kept by one of them at least.
    """
    of_budget: dict[str, list[tuple[str, BudgetVerdict]]] = {}
    for name, given in verdicts.items():
        for verdict in given:
            of_budget.setdefault(verdict.budget, []).append((name, verdict))
    found = []
    judged = sum(1 for given in verdicts.values() if given)  # an image is made of the winner alone
    for budget, pairs in of_budget.items():
        if len(pairs) == judged and all(verdict.outcome == "missed" for _, verdict in pairs):
            name, nearest = min(pairs, key=lambda pair: abs((pair[1].actual or 0.0) - pair[1].limit))
            found.append(f"{missed(nearest)}, and that is {name}, the nearest to {budget}")
    return tuple(found)


def nearest(verdicts: Mapping[str, Sequence[BudgetVerdict]]) -> str:
    """Which candidate comes nearest to keeping all budgets at once, and with which it would; empty when one keeps all.

    Nearest is whose worst miss is the smallest part of its budget. What is unmeasured counts as neither.
    """
    misses = {
        name: [verdict for verdict in given if verdict.outcome == "missed"] for name, given in verdicts.items() if given
    }
    if not misses or not all(misses.values()):
        return ""
    name = min(misses, key=lambda one: max(map(_excess, misses[one])))
    needed = (f"{verdict.budget} {_show(verdict.budget)(verdict.actual or 0.0)}" for verdict in misses[name])
    return f"{name} comes nearest: it keeps every budget with {' and '.join(needed)}"


def missed(verdict: BudgetVerdict) -> str:
    """What is, beside what was to be."""
    assert verdict.actual is not None
    show = _show(verdict.budget)
    bound = " at 95 % confidence" if verdict.budget in ("max-drop", "min-agreement") else ""
    note = f" ({verdict.note})" if verdict.note else ""
    return f"{verdict.budget} is {show(verdict.actual)}{bound}, the budget is {show(verdict.limit)}{note}"


def _excess(verdict: BudgetVerdict) -> float:
    actual = verdict.actual or 0.0
    return abs(actual - verdict.limit) / max(abs(verdict.limit), 1e-3)  # of no drop at all: a tenth of a point


def _show(budget: str) -> Callable[[float], str]:
    if budget == "max-drop":
        return format_points
    if budget == "min-agreement":
        return format_percent
    if budget in ("peak-memory", "file-size", "image-size"):
        return _size
    return format_seconds if budget.startswith("latency") or budget == "load-time" else _number


def _number(value: float) -> str:
    return f"{value:.4g}"


def _size(value: float) -> str:
    return format_bytes(int(value))
