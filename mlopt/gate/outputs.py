"""A gate's result in the formats that CI reads: one function each, a result to text."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlopt.errors import MloptError, NoSpaceLeft, StoreUnusable
from mlopt.gate import text
from mlopt.gate.junit import to_junit
from mlopt.gate.markdown import to_markdown
from mlopt.gate.openmetrics import to_openmetrics
from mlopt.gate.result import GateResult
from mlopt.gate.sarif import to_sarif
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


def to_benchmark_json(result: GateResult, *, larger_is_better: bool = False) -> str:
    """What github-action-benchmark reads: of the tool `customSmallerIsBetter`, or of `customBiggerIsBetter`."""
    entries = []
    for metric, value in result.measured.items():
        if (metric in _LARGER_IS_BETTER) is not larger_is_better:
            continue
        unit = _UNITS.get(metric, "share")
        check = next((one for one in result.checks if one.metric == metric and one.change), None)
        spread = f"± {(check.change.high - check.change.low) / 2:.1%}" if check and check.change else ""
        entry = {"name": metric, "unit": unit, "value": value * (1000 if unit == "ms" else 1)}
        entries.append({**entry, "range": spread, "extra": text.headline(cleaned(result))} if spread else entry)
    return json.dumps(entries, indent=1) + "\n"


def to_bencher(result: GateResult) -> str:
    """Bencher Metric Format: latency in nanoseconds with the bounds of the change, the rest as it is."""
    measures: dict[str, dict[str, float]] = {}
    for metric, value in result.measured.items():
        scale = 1e9 if _UNITS.get(metric) == "ms" else 1.0
        found = measures[_MEASURES.get(metric, metric)] = {"value": value * scale}
        check = next((one for one in result.checks if one.metric == metric and one.baseline and one.change), None)
        if check and check.change and check.baseline and check.change.low > -1 and check.change.high < 10:
            low, high = (check.baseline * (1 + end) * scale for end in (check.change.low, check.change.high))
            found |= {"lower_value": min(low, value * scale), "upper_value": max(high, value * scale)}
    return json.dumps({result.candidate.name: measures}, indent=1) + "\n"


FORMATS: Final[Mapping[str, Callable[[GateResult], str]]] = {
    "junit": to_junit,
    "markdown": to_markdown,
    "sarif": to_sarif,
    "benchmark_json": to_benchmark_json,
    "bencher": to_bencher,
    "openmetrics": to_openmetrics,
    "csv": to_csv,
}


def write(result: GateResult, files: Mapping[str, Path | None]) -> None:
    """Each format into its file, whole or not at all; and the Markdown into what GitHub shows of a step.

    Raises `NoSpaceLeft`, `StoreUnusable`.
    """
    for name, path in files.items():
        if path is not None:
            _put(path, FORMATS[name](result))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(to_markdown(result) + "\n")
        except OSError as error:
            raise _unwritable(Path(summary), error) from error


def _put(path: Path, content: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(content, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):  # renamed already, or its folder is none
            scratch.unlink()


def _unwritable(path: Path, error: OSError) -> MloptError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceLeft("The disk is full; what was there before is untouched.", where=str(path), next="free space")
    return StoreUnusable(
        f"An output of the gate cannot be written: {error.strerror}.", where=str(path), next="give another file"
    )


def _safe(cell: Any) -> Any:
    """No cell that a spreadsheet would compute."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@") else cell
