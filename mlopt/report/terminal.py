"""What `mlopt compile` prints at its end: the verdict, a table that fits the terminal, and why the others lost."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

from mlopt.report import gpu, text, verdict
from mlopt.report.report import Report
from mlopt.report.table import Row, Table, table_of

_COLORS: Final = {
    "ships": "32;1",
    "eligible": "32",
    "unmeasured": "33",
    "out": "0",
    "failed": "31",
    "warn": "33",
    "dim": "2",
}
_MARKS: Final = {"ships": "★", "eligible": "+", "unmeasured": "?", "out": " ", "failed": "✗"}
_NARROWEST: Final = 40
_GAP: Final = "  "

# Columns in the order in which a narrow terminal loses them, the last first; detail means with its interval.
_WANTED: Final = (
    ("p50", False),
    ("size", False),
    ("speedup", False),
    ("top1", False),
    ("agreement", False),
    ("drop", True),
    ("sqnr", False),
    ("p99", False),
    ("memory", False),
    ("gpu_memory", False),
    ("speedup", True),
    ("agreement", True),
    ("throughput", False),
    ("load", False),
    ("p90", False),
    ("cosine", False),
)


def to_terminal(report: Report, *, width: int, color: bool) -> str:
    """Text for a terminal of `width` columns (at least 40), without a trailing newline.

    No line is wider than `width`, except that a single word is never cut. Control characters in names are
    made visible, so a model's file cannot drive the terminal.
    """
    report = text.cleaned(report)
    width = max(width, _NARROWEST)
    table = table_of(report)
    winner = verdict.shipped(report)
    good = winner is not None and all(one.outcome != "missed" for one in winner.verdicts)
    lines = [_painted(line, "ships" if good else "failed", color) for line in _wrapped(verdict.headline(report), width)]
    lines += _wrapped(verdict.why(report), width, indent="  ")
    lines += _wrapped(f"{verdict.budgets_in_short(report)}.", width, indent="  ")
    for warning in verdict.warnings(report):
        lines += [_painted(line, "warn", color) for line in _wrapped(f"! {warning}", width, indent="  ")]
    lines += ["", *_candidates(table, width, color)]
    lines += [_painted(line, "dim", color) for line in _wrapped(_evidence(table), width, indent="  ")]
    lines += _reasons("on the GPU", gpu.of_candidates(report), width, color)
    lines += _reasons(
        "decided", [(row.candidate.name, note) for row in table.rows for note in row.candidate.notes], width, color
    )
    why_not = _sharing((row.candidate.name, row.reason) for row in _losers(table))
    lines += _reasons("why not", why_not, width, color)
    left_out = _sharing((one.recipe, one.reason) for one in report.left_out)
    lines += _reasons("left out", left_out, width, color)
    lines += _reasons("notes", [("", note) for note in report.notes], width, color)
    return "\n".join(lines)


def columns_of(words: str) -> int:
    """How many columns of a terminal a text takes: East Asian wide characters take two, combining ones none.

    >>> columns_of("int8"), columns_of("模型")
    (4, 4)
    """
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in words)
    return len(words) + wide - sum(unicodedata.combining(character) > 0 for character in words)


def _sharing(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Names and reason, once for all that share it."""
    names: dict[str, list[str]] = {}
    for name, reason in pairs:
        names.setdefault(reason, []).append(name)
    return [(", ".join(sharing), reason) for reason, sharing in names.items()]


def _losers(table: Table) -> list[Row]:
    return [
        row for row in table.rows if row.role != "ships" and row.reason and not (row.is_baseline and row.role == "out")
    ]


def _evidence(table: Table) -> str:
    """How the clocks were taken, once, under the table."""
    taken = [row.candidate.measurement for row in table.rows if row.candidate.measurement]
    return verdict.how_measured(taken[0], [one.runtime for one in taken]) if taken else ""


def _candidates(table: Table, width: int, color: bool) -> list[str]:
    """The table with as many columns as fit; the names get what is left, and at least twelve characters."""
    longest = max((columns_of(_name(row)) for row in table.rows), default=0)
    for names in (longest, max(min(longest, width // 4), 12)):
        columns = _fitting(table, width - names - 2)
        if len(columns) >= min(4, len(table.columns)):
            break
    names = min(longest, width - 2 - sum(_wide(column) + len(_GAP) for column in columns))
    heads = _line("", "candidate", [column[0] for column in columns], columns, names)
    lines = [_painted(heads, "dim", color)]
    for number, row in enumerate(table.rows):
        values = [column[number + 1] for column in columns]
        lines.append(_painted(_line(_MARKS[row.role], _name(row), values, columns, names), row.role, color))
    return lines


def _fitting(table: Table, room: int) -> list[list[str]]:
    """The most wanted columns that fit into `room`, in the order of the table; each a heading and its values."""
    headings = {column.key: column.heading for column in table.columns}
    chosen: dict[str, list[str]] = {}
    for key, detailed in _WANTED:
        if key not in headings:
            continue
        column = [headings[key], *(_value(row, key, detailed) for row in table.rows)]
        others = sum(_wide(other) + len(_GAP) for name, other in chosen.items() if name != key)
        if others + _wide(column) + len(_GAP) <= room:
            chosen[key] = column
    return [chosen[column.key] for column in table.columns if column.key in chosen]


def _value(row: Row, key: str, detailed: bool) -> str:
    cell = row.cells[key]
    grade = "" if cell.grade in ("measured", "unmeasured") else f" {cell.grade}"
    return f"{cell.text} {cell.detail}".strip() + grade if detailed else cell.text + grade


def _line(mark: str, name: str, values: Sequence[str], columns: Sequence[Sequence[str]], names: int) -> str:
    shown = _cut(name, names)
    cells = [value.rjust(_wide(column)) for value, column in zip(values, columns, strict=True)]
    padding = " " * (names - columns_of(shown))
    return _GAP.join([f"{mark or ' '} {shown}{padding}", *cells]).rstrip()


def _name(row: Row) -> str:
    named = row.is_baseline and row.candidate.name != "baseline"
    return f"{row.candidate.name} (baseline)" if named else row.candidate.name


def _cut(words: str, width: int) -> str:
    """The beginning and the end of a name, because recipes differ at both."""
    if columns_of(words) <= width:
        return words
    head, tail = words, ""
    while head and columns_of(head) + columns_of(tail) + 1 > width:
        if columns_of(tail) < (width - 1) // 3:
            tail, head = head[-1] + tail, head[:-1]
        else:
            head = head[:-1]
    return f"{head}…{tail}"


def _wide(column: Sequence[str]) -> int:
    return max(columns_of(value) for value in column)


def _reasons(title: str, reasons: Sequence[tuple[str, str]], width: int, color: bool) -> list[str]:
    if not reasons:
        return []
    lines = ["", _painted(title, "dim", color)]
    for name, reason in reasons:
        lines += _wrapped(f"{name}: {reason}" if name else reason, width, indent="  ", hanging="    " if name else "  ")
    return lines


def _wrapped(words: str, width: int, *, indent: str = "", hanging: str | None = None) -> list[str]:
    """Lines of at most `width` columns; textwrap would count characters."""
    lines, line, begun = [], indent, False
    for word in words.split():
        if begun and columns_of(line) + 1 + columns_of(word) > width:
            lines.append(line)
            line, begun = indent if hanging is None else hanging, False
        line, begun = f"{line} {word}" if begun else line + word, True
    return [*lines, line] if begun else lines


def _painted(line: str, kind: str, color: bool) -> str:
    code = _COLORS[kind]
    return f"\x1b[{code}m{line}\x1b[0m" if color and code != "0" and line else line
