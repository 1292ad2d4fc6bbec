"""Markdown and terminal: golden files, and what must hold for every report at every width.

MLOPT_GOLDEN=write rewrites the golden files; look at the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from report import made_candidates, made_reports

from mlopt.report import verdict
from mlopt.report.html import to_html
from mlopt.report.markdown import to_markdown
from mlopt.report.terminal import columns_of, to_terminal

GOLDEN = Path(__file__).parent.parent / "golden" / "report"
STEP_SUMMARY = 1 << 20  # bytes that GitHub takes


@pytest.mark.parametrize("name", made_reports.ALL)
def test_markdown_is_golden(name: str) -> None:
    _golden(f"{name}.md", to_markdown(made_reports.ALL[name]()))


@pytest.mark.parametrize("name", made_reports.ALL)
def test_terminal_is_golden(name: str) -> None:
    _golden(f"{name}.80.txt", to_terminal(made_reports.ALL[name](), width=80, color=False) + "\n")


@pytest.mark.parametrize("width", [40, 66, 120, 200])
def test_terminal_is_golden_at_other_widths(width: int) -> None:
    _golden(f"labelled.{width}.txt", to_terminal(made_reports.labelled(), width=width, color=False) + "\n")


def test_a_file_that_is_larger_by_its_metadata_alone_is_of_the_same_size() -> None:
    report = made_reports.labelled()
    first = next(one for one in report.candidates if one.name == report.baseline)
    same = tuple(
        replace(one, file_size=first.file_size + 35) if one.name == report.winner else one for one in report.candidates
    )
    assert ", of the same size," in verdict.headline(replace(report, candidates=same))


@pytest.mark.parametrize("name", made_reports.ALL)
@pytest.mark.parametrize("width", [1, 40, 57, 80, 100, 133, 250])
def test_no_line_is_wider_than_the_terminal_but_for_a_single_word(name: str, width: int) -> None:
    for line in to_terminal(made_reports.ALL[name](), width=width, color=False).splitlines():
        assert columns_of(line) <= max(width, 40) or len(line.split()) == 1, line


@pytest.mark.parametrize("name", made_reports.ALL)
def test_color_adds_nothing_but_color(name: str) -> None:
    report = made_reports.ALL[name]()
    painted = to_terminal(report, width=80, color=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[[0-9;]*m", "", painted) == to_terminal(report, width=80, color=False)


def test_a_name_cannot_drive_the_terminal() -> None:
    assert "\x1b" not in to_terminal(made_reports.nasty(), width=80, color=False)


def test_a_wider_terminal_shows_more() -> None:
    report = made_reports.labelled()
    narrow, wide = (to_terminal(report, width=width, color=False) for width in (80, 160))
    assert "throughput" in wide
    assert "throughput" not in narrow
    for words in ("int8-static", "2.32 ms", "48.2 %", "[-0.4, +1.8]", "2.74×", "1.29 MB"):
        assert words in narrow


def test_terminal_names_what_was_not_measured() -> None:
    shown = to_terminal(made_reports.elsewhere(), width=80, color=False)
    assert "! Nothing was timed" in shown
    assert not re.search(r"\d ms", shown)


def test_what_the_steps_decided_is_said_everywhere() -> None:
    report = made_reports.labelled()
    (note, _) = made_candidates.NOTES["int8-static"]
    assert f"int8-static: {note}" in to_terminal(report, width=200, color=False)
    assert note in to_markdown(report).replace("\\", "")
    assert note in to_html(report)


def test_markdown_cannot_become_markup() -> None:
    shown = to_markdown(made_reports.nasty())
    outside = re.sub(r"</?(?:details|summary|sub)>", "", shown)
    code = outside.partition("Make this again:")[0]
    assert "<" not in code
    assert not re.search(r"(?<!\\)[`\[\]~]", code)
    assert "\x1b" not in shown


def test_every_row_of_a_markdown_table_has_the_same_cells() -> None:
    for name, made in made_reports.ALL.items():
        tables: list[list[str]] = [[]]
        for line in to_markdown(made()).splitlines():
            if line.startswith("|"):
                tables[-1].append(line)
            elif tables[-1]:
                tables.append([])
        for table in filter(None, tables):
            cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table}
            assert len(cells) == 1, (name, table)


def test_a_large_report_fits_a_step_summary() -> None:
    report = made_reports.labelled()
    many = tuple(replace(report.candidates[i % 5], name=f"{made_reports.LONG}-{i}") for i in range(500))
    assert len(to_markdown(replace(report, candidates=many)).encode()) < STEP_SUMMARY


def _golden(name: str, shown: str) -> None:
    path = GOLDEN / name
    if os.environ.get("MLOPT_GOLDEN") == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert path.is_file(), f"{path.name} is not there: run with MLOPT_GOLDEN=write and look at it"
    assert shown == path.read_text(encoding="utf-8")
