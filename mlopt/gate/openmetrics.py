"""OpenMetrics text: gauges that a Prometheus text-file collector or a push gateway takes."""

from __future__ import annotations

import math
from typing import Final

from mlopt.gate.result import Check, GateResult
from mlopt.report.text import cleaned

_PREFIX: Final = "mlopt_gate"
_SAYS: Final = {"pass": 0, "fail": 1, "inconclusive": 2}
_GAUGES: Final = {
    "candidate": "The candidate's value, in seconds, bytes, counts or shares.",
    "baseline": "The baseline's value.",
    "change": "The share by which the candidate is larger.",
    "margin": "The change that is allowed, of a budget its limit.",
    "verdict": "0 pass, 1 fail, 2 inconclusive.",
}


def to_openmetrics(result: GateResult) -> str:
    """One gauge for each kind of number, labelled by model, profile, metric and kind."""
    result = cleaned(result)
    lines = []
    for gauge, help in _GAUGES.items():
        name = f"{_PREFIX}_{gauge}"
        lines += [f"# TYPE {name} gauge", f"# HELP {name} {help}"]
        for check in result.checks:
            value = _value(gauge, check)
            if value is not None and math.isfinite(value):
                lines.append(f"{name}{{{_labels(result, check)}}} {value!r}")
    return "\n".join([*lines, "# EOF"]) + "\n"


def _value(gauge: str, check: Check) -> float | None:
    if gauge == "verdict":
        return float(_SAYS[check.verdict])
    if gauge == "change":
        return check.change.value if check.change else None
    found: float | None = getattr(check, gauge)
    return None if found is None else float(found)


def _labels(result: GateResult, check: Check) -> str:
    given = {
        "model": result.candidate.name,
        "profile": result.profile,
        "metric": check.metric,
        "kind": check.kind,
        "unit": check.unit,
    }
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in given.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
