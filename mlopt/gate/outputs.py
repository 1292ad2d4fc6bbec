"""A gate's result in the formats that CI reads: one function each, a result to text."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from mlopt.errors import MloptError, NoSpaceLeft, StoreUnusable
from mlopt.gate import text
from mlopt.gate.junit import to_junit
from mlopt.gate.markdown import to_markdown
from mlopt.gate.openmetrics import to_openmetrics
from mlopt.gate.result import Check, GateResult
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
_STREAMS: Final = (1, 2)
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
    "junit": to_junit,
    "markdown": to_markdown,
    "sarif": to_sarif,
    "benchmark_json": to_benchmark_json,
    "bencher": to_bencher,
    "openmetrics": to_openmetrics,
    "csv": to_csv,
}


def write(result: GateResult, files: Mapping[str, Path | None]) -> list[MloptError]:
    """Each format into its file, whole or not at all; and the Markdown into what GitHub shows of a step.

    Returns what could not be written: one output that cannot be must not lose the others, or the verdict.
    """
    failed = []
    for name, path in files.items():
        if path is not None:
            try:
                _put(path, FORMATS[name](result))
            except OSError as error:
                failed.append(_unwritable(path, error))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(to_markdown(result) + "\n")
        except OSError as error:
            failed.append(_unwritable(Path(summary), error))
    return failed


def _put(path: Path, content: str) -> None:
    """Streams and devices take it as it comes; a file is replaced, where a link leads."""
    try:
        there = path.stat()
    except FileNotFoundError:
        _replace(Path(os.path.realpath(path)), content)
        return
    if (stream := _stream_of(there)) is not None:  # /dev/stdout may be a file that holds the verdict already
        with open(stream, "w", encoding="utf-8", closefd=False) as opened:
            opened.write(content)
    elif stat.S_ISREG(there.st_mode):
        _replace(Path(os.path.realpath(path)), content)
    else:
        path.write_text(content, encoding="utf-8")


def _stream_of(there: os.stat_result) -> int | None:
    """Which of stdout and stderr this is."""
    for stream in _STREAMS:
        with suppress(OSError):  # closed
            if os.path.samestat(there, os.fstat(stream)):
                return stream
    return None


def _replace(path: Path, content: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(content, encoding="utf-8")
        os.replace(scratch, path)
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
