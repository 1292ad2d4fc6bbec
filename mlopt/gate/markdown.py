"""A gate's verdict as Markdown, for the summary of a CI step and for a pull request."""

from __future__ import annotations

from typing import Final

from mlopt.gate import text
from mlopt.gate.result import GateResult
from mlopt.report.markdown import escaped, grid
from mlopt.report.text import cleaned

_MARKS: Final = {"pass": "✅", "fail": "❌", "inconclusive": "⚠️"}


def to_markdown(result: GateResult) -> str:
    """GitHub-flavoured Markdown; texts of the result are escaped, so none can become mark-up."""
    result = cleaned(result)
    rows = [
        [*map(escaped, row[:-1]), f"{_MARKS[check.verdict]} {check.verdict}"]
        for row, check in zip(text.rows(result), result.checks, strict=True)
    ]
    blocks = [
        f"## {_MARKS[result.verdict]} {escaped(text.headline(result))}",
        grid(text.HEADS, rows, numbers_from=1),
        *_slower(result),
        "\n".join(f"- {escaped(note)}" for note in text.notes(result)),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _slower(result: GateResult) -> list[str]:
    if not result.slower:
        return []
    rows = [[*map(escaped, row)] for row in text.slower_rows(result)]
    return [escaped(text.SLOWER), grid(text.SLOWER_HEADS, rows, numbers_from=2)]
