"""A gate's result as CI systems think of it: cases and gauges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mlopt.ci.openmetrics import Gauge
from mlopt.ci.suite import Case, Suite
from mlopt.gate import text
from mlopt.gate.result import Check, GateResult

_SAYS: Final = {"pass": 0, "fail": 1, "inconclusive": 2}
_GAUGES: Final = {
    "candidate": "The candidate's value, in seconds, bytes, counts or shares.",
    "baseline": "The baseline's value.",
    "change": "The share by which the candidate is larger.",
    "margin": "The change that is allowed, of a budget its limit.",
    "verdict": "0 pass, 1 fail, 2 inconclusive.",
}


def suite_of(result: GateResult) -> Suite:
    left = (Case(one.metric, "regression", "not compared", one.reason) for one in result.not_compared)
    return Suite(
        verb="gate",
        mlopt=result.mlopt,
        model=result.candidate.name,
        digest=result.candidate.digest,
        group=f"mlopt.gate.{result.profile}",
        seconds=result.seconds,
        properties={"baseline": result.baseline.name, "profile": result.profile, "verdict": result.verdict},
        cases=(*(_case(check) for check in result.checks), *left),
    )


def gauges_of(result: GateResult) -> Iterator[Gauge]:
    """One for each kind of number, labelled by model, profile, metric and kind."""
    for name, help in _GAUGES.items():
        values = tuple((_labels(result, check), _value(name, check)) for check in result.checks)
        yield Gauge(f"mlopt_gate_{name}", help, values)


def _case(check: Check) -> Case:
    told = f"{text.value(check, check.candidate)} {text.change(check)}".strip()
    told = f"{told}, allowed {text.allowed(check)}".removeprefix(", ")
    return Case(check.metric, check.kind, check.verdict, told, check.method, check.note)


def _value(gauge: str, check: Check) -> float | None:
    if gauge == "verdict":
        return float(_SAYS[check.verdict])
    if gauge == "change":
        return check.change.value if check.change else None
    found: float | None = getattr(check, gauge)
    return found


def _labels(result: GateResult, check: Check) -> dict[str, str]:
    return {
        "model": result.candidate.name,
        "profile": result.profile,
        "metric": check.metric,
        "kind": check.kind,
        "unit": check.unit,
    }
