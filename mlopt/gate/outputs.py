"""A gate's result in the formats that CI reads: one function each, a result to text."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mlopt.ci.files import append, put_all
from mlopt.ci.junit import to_junit
from mlopt.ci.openmetrics import to_openmetrics
from mlopt.ci.sarif import to_sarif
from mlopt.errors import MloptError
from mlopt.gate import text
from mlopt.gate.cases import gauges_of, suite_of
from mlopt.gate.markdown import to_markdown
from mlopt.gate.result import Check, GateResult
from mlopt.report.text import cleaned

_COLUMNS: Final = (
    *("metric", "kind", "verdict", "unit", "baseline", "candidate", "change", "change_low", "change_high", "margin"),
    "note",
)
_UNITS: Final = {
    "latency-p50": "ms",
    "latency-p90": "ms",
    "latency-p99": "ms",
    "load-time": "ms",
    "peak-memory": "bytes",
    "file-size": "bytes",
    "throughput": "samples/s",
}
_LARGER_IS_BETTER: Final = frozenset({"throughput", "top1", "agreement"})
_MEASURES: Final = {"latency-p50": "latency", "throughput": "throughput", "file-size": "file-size"}


def to_csv(result: GateResult) -> str:
    """One row for each check; numbers in seconds, bytes and shares."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for check in cleaned(result).checks:
        change = check.change
        ends = (change.value, change.low, change.high) if change else ("", "", "")
        values = ["" if value is None else value for value in (check.baseline, check.candidate)]
        row = [check.metric, check.kind, check.verdict, check.unit, *values, *ends, check.margin, check.note]
        writer.writerow([_safe(cell) for cell in row])
    return stream.getvalue()


def to_benchmark_json(result: GateResult) -> str:
    """What github-action-benchmark calls `customSmallerIsBetter`: without what is better when larger."""
    entries = []
    for metric, value in result.measured.items():
        if metric in _LARGER_IS_BETTER:
            continue
        unit = _UNITS.get(metric, "share")
        check = next((one for one in result.checks if one.metric == metric and one.change), None)
        spread = f"± {(check.change.high - check.change.low) / 2:.1%}" if check and check.change else ""
        entry = {"name": metric, "unit": unit, "value": value * (1000 if unit == "ms" else 1)}
        entries.append({**entry, "range": spread, "extra": text.headline(cleaned(result))} if spread else entry)
    return json.dumps(entries, indent=1) + "\n"


def to_bencher(result: GateResult) -> str:
    """Bencher Metric Format: latency in nanoseconds, the rest as it is; bounds where there is an interval."""
    measures: dict[str, dict[str, float]] = {}
    for metric, value in result.measured.items():
        scale = 1e9 if _UNITS.get(metric) == "ms" else 1.0
        found = measures[_MEASURES.get(metric, metric)] = {"value": value * scale}
        if ends := next((_ends(one) for one in result.checks if one.metric == metric and one.change), None):
            low, high = (end * scale for end in ends)
            found |= {"lower_value": min(low, value * scale), "upper_value": max(high, value * scale)}
    return json.dumps({result.candidate.name: measures}, indent=1) + "\n"


def _ends(check: Check) -> tuple[float, float] | None:
    """What the candidate's value lies between, by its change; None where that is no bound."""
    if check.baseline is None or check.change is None:
        return None
    if check.unit == "share":  # the change is the share of answers lost, so the worst end is the lower one
        return check.baseline - check.change.high, check.baseline - check.change.low
    if check.change.low <= -1 or check.change.high >= 10:
        return None
    return check.baseline * (1 + check.change.low), check.baseline * (1 + check.change.high)


FORMATS: Final[Mapping[str, Callable[[GateResult], str]]] = {
    "junit": lambda result: to_junit([suite_of(result)]),
    "markdown": to_markdown,
    "sarif": lambda result: to_sarif([suite_of(result)]),
    "benchmark_json": to_benchmark_json,
    "bencher": to_bencher,
    "openmetrics": lambda result: to_openmetrics(gauges_of(result)),
    "csv": to_csv,
}


def write(result: GateResult, files: Mapping[str, Path | None]) -> list[MloptError]:
    """Each format into its file, whole or not at all; and the Markdown into what GitHub shows of a step.

    Returns what could not be written: one output that cannot be must not lose the others, or the verdict.
    """
    failed = put_all((path, FORMATS[name](result)) for name, path in files.items() if path is not None)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        failed += append(Path(summary), to_markdown(result) + "\n")
    return failed


def _safe(cell: Any) -> Any:
    """No cell that a spreadsheet would compute."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
