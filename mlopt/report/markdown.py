"""The report as Markdown: for the summary of a CI step and for a pull request, so short enough to be read there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mlopt.report import gpu, text, verdict
from mlopt.report.layers import inside_of
from mlopt.report.report import Report
from mlopt.report.table import Cell, Row, Table, table_of

_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]|#~$!])")


def to_markdown(report: Report) -> str:
    """GitHub-flavoured Markdown. Texts of the report are escaped: none of them can become mark-up."""
    report = text.cleaned(report)
    table = table_of(report)
    blocks = [
        f"## {_tone(report)} {escaped(verdict.headline(report))}",
        escaped(verdict.why(report)),
        *(f"> ⚠️ {escaped(warning)}" for warning in verdict.warnings(report)),
        _budgets(report),
        _candidates(table),
        _decided(table),
        _others(table),
        _layers(report),
        _folded("On the GPU", [f"- {_strong(name)}: {escaped(said)}" for name, said in gpu.of_candidates(report)]),
        _folded("Recipes left out", [f"- {_strong(one.recipe)}: {escaped(one.reason)}" for one in report.left_out]),
        _folded("Parity, samples, image, steps", _evidence(report)),
        _folded("How the numbers were obtained", _methods(table)),
        _folded("Notes", [f"- {escaped(note)}" for note in report.notes]),
        _reproduce(report),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _tone(report: Report) -> str:
    winner = verdict.shipped(report)
    if winner is None or any(one.outcome == "missed" for one in winner.verdicts):
        return "❌"
    unjudged = winner.measurement is None or any(one.outcome == "unmeasured" for one in winner.verdicts)
    return "⚠️" if unjudged else "✅"


def _budgets(report: Report) -> str:
    lines = verdict.budgets(verdict.shipped(report))
    rows = [
        [
            escaped(line.name),
            escaped(line.limit),
            escaped(line.actual),
            f"{verdict.OUTCOME_MARKS[line.outcome]} {line.outcome}",
            line.grade,
        ]
        for line in lines
    ]
    return grid(["budget", "limit", "reached", "verdict", "evidence"], rows) if rows else ""


def _candidates(table: Table) -> str:
    heads = ["candidate", "", *(column.heading for column in table.columns)]
    rows = [[_name(row), row.word, *(_cell(row.cells[column.key]) for column in table.columns)] for row in table.rows]
    return f"{grid(heads, rows, numbers_from=2)}\n\n<sub>{_grades(table)}</sub>"


def _name(row: Row) -> str:
    shown = escaped(row.candidate.name)
    marks = ("★ " if row.role == "ships" else "") + (f"**{shown}**" if row.role == "ships" else shown)
    return f"{marks} (baseline)" if row.is_baseline else marks


def _cell(cell: Cell) -> str:
    grade = "" if cell.grade in ("measured", "unmeasured") else f" ({cell.grade})"
    return escaped(f"{cell.text} {cell.detail}".strip()) + grade


def _grades(table: Table) -> str:
    """Once, below the table, what every number without a word of its own is."""
    sources = {
        row.candidate.measurement.device
        for row in table.rows
        if row.candidate.measurement and row.cells["p50"].grade == "measured"
    }
    where = f"Numbers are measured on {escaped(text.listed(sorted(sources)))}" if sources else "Nothing was timed"
    return f"{where}; {text.ABSENT} is unmeasured; in brackets the 95 % interval."


def _decided(table: Table) -> str:
    lines = [f"- {_strong(row.candidate.name)}: {escaped(note)}" for row in table.rows for note in row.candidate.notes]
    return "\n".join(["**What the steps decided**", "", *lines]) if lines else ""


def _others(table: Table) -> str:
    lines = [
        f"- {_strong(row.candidate.name)}: {escaped(row.reason)}"
        for row in table.rows
        if row.role != "ships" and row.reason
    ]
    return "\n".join(["**Why not the others**", "", *lines]) if lines else ""


def _layers(report: Report) -> str:
    """The parts that take most, the baseline beside what ships."""
    inside = inside_of(report)
    if not inside.parts:
        return ""
    heads = ["layer", "runs", *(escaped(whole.side.label) for whole in inside.wholes)]
    heads += ["times faster"] if len(inside.wholes) > 1 else []
    rows = []
    for part in inside.parts:
        spent = [
            f"{text.seconds(one.seconds)}, {text.percent(one.share)}" if one else text.ABSENT for one in part.amounts
        ]
        ratio = [part.ratio or text.ABSENT] if len(inside.wholes) > 1 else []
        rows.append([escaped(part.name), escaped(part.holds), *spent, *ratio])
    said = [escaped(inside.summary), "", grid(heads, rows, numbers_from=2)]
    return _folded("Where the time of a query goes", said)


def _evidence(report: Report) -> list[str]:
    reused = sum(1 for step in report.steps if step.cached)
    steps = f"{len(report.steps)} steps, {reused} reused" if len(report.steps) != 1 else f"1 step, {reused} reused"
    took = f"{text.seconds(report.seconds)} in all, peak memory {text.size(report.peak_memory)}"
    return [*_parity(report), *_samples(report), *_image(report), f"- {steps}; {took}"]


def _parity(report: Report) -> list[str]:
    return [
        f"- parity of {escaped(one.output)}, batch {one.batch}, against {escaped(one.source)}: "
        f"largest difference {text.difference(one.max_absolute)} absolute, "
        f"{text.difference(one.max_relative)} relative (tolerance {text.difference(one.tolerance)}), "
        f"cosine {text.cosine(one.cosine)}"
        for one in report.parity
    ]


def _samples(report: Report) -> list[str]:
    samples = report.samples
    if samples is None:
        return ["- no samples were given"]
    labels = "with labels" if samples.labelled else "without labels"
    split = f"{text.count(samples.calibration)} for calibration, {text.count(samples.evaluation)} for evaluation"
    return [f"- samples: {escaped(samples.source)}, {split}, {labels}, none shared (seed {samples.seed})"]


def _image(report: Report) -> list[str]:
    if report.image is None:
        return [f"- no image: {escaped(report.image_left_out)}"] if report.image_left_out else []
    sizes = text.listed(
        f"{platform} {text.size(sum(compressed for _, compressed, _ in layers))}"
        for platform, layers in sorted(report.image.platforms.items())
    )
    return [f"- image {escaped(report.image.tag)} ({text.digest(report.image.digest)}): {escaped(sizes)} compressed"]


def _methods(table: Table) -> list[str]:
    lines = []
    for column in table.columns:
        cells = [row.cells[column.key] for row in table.rows]
        cell = next((cell for cell in cells if cell.grade != "unmeasured"), cells[0] if cells else None)
        if cell is not None:
            lines.append(f"- {_strong(column.heading)}: {escaped(column.help)}; {escaped(cell.source)}")
    return lines


def _reproduce(report: Report) -> str:
    """An indented block: unlike a fence, no text inside can end it."""
    return f"Make this again:\n\n    {verdict.command(report)}" if report.command else ""


def _folded(title: str, lines: Sequence[str]) -> str:
    if not lines:
        return ""
    body = "\n".join(lines)
    return f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers_from: int = 99) -> str:
    rule = ["---:" if i >= numbers_from else "---" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _strong(words: str) -> str:
    return f"**{escaped(words)}**"


def escaped(words: str) -> str:
    """Words that Markdown shows as they are: no mark-up, no tag, no link, no line break."""
    one_line = " ".join(words.split())
    safe = _SPECIAL.sub(r"\\\1", one_line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))
    return safe.replace("://", ":&#8203;//").replace("@", "@&#8203;")
