"""The page of two results: the same numbers as the text, both sides' facts, and layers as shares alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from history.histories import entry
from report import made_reports

from mlopt.history.compare import compare, read_result
from mlopt.history.compare_page import Given, Page, page_of, report_in, to_html
from mlopt.history.compared_text import change
from mlopt.history.entry import Number
from mlopt.report.files import write_report
from mlopt.report.report import Report


def given(path: Path, report: Report, **changes: Any) -> Given:
    path.mkdir()
    write_report(report, path)
    if changes:
        found = json.loads((path / "report.json").read_bytes())
        (path / "report.json").write_text(json.dumps({**found, **changes}))
    return Given(str(path), read_result(path), report_in(path))


@pytest.fixture
def both(tmp_path: Path) -> tuple[Given, Given]:
    report = made_reports.labelled()
    larger = tuple(
        replace(one, file_size=2 * one.file_size, digest="ff" * 32) if one.name == report.winner else one
        for one in report.candidates
    )
    other = replace(report, candidates=larger, tools={**report.tools, "onnx": "1.21.0"})
    return given(tmp_path / "a", report), given(tmp_path / "b", other)


def test_what_ships_comes_first_with_what_became_of_it(both: tuple[Given, Given]) -> None:
    page = page_of(*both)
    assert page.headline == "B beside A: file size worse"
    assert page.tone == "bad"
    assert page.said == "Both ship int8-static."
    assert page.first
    lines = {line.metric: line for line in page.first.lines}
    assert (lines["file size"].before, lines["file size"].after) == ("1.29 MB", "2.58 MB")
    assert (lines["file size"].change, lines["file size"].mark) == ("+100.0 %", "✗")
    assert any("54 %" in reason for _, reason in page.first.left)


def test_the_page_says_of_every_model_what_the_text_says(both: tuple[Given, Given]) -> None:
    page = page_of(*both)
    found = compare(both[0].entries, both[1].entries)
    assert [[line.change for line in block.lines] for block in page.blocks] == [
        [change(pair) for pair in match.pairs] for match in found.matches
    ]


def test_what_differs_in_how_they_were_made_is_told_apart(both: tuple[Given, Given]) -> None:
    page = page_of(*both)
    assert [(fact.name, fact.before, fact.after) for fact in page.differing] == [("onnx", "1.20.0", "1.21.0")]
    assert {"ships", "model", "machine", "samples", "profile"} <= {fact.name for fact in page.same}


def test_layers_are_shares_and_no_times(both: tuple[Given, Given]) -> None:
    page = page_of(*both)
    assert page.spent
    assert [name.partition(" ")[0] for name in page.spent.names] == ["A", "B"]
    shown = to_html(*both).partition('id="layers"')[2].partition("</section>")[0]
    assert not re.search(r"\d (?:µs|ms)", shown)
    assert "48.2 %" in shown


@pytest.mark.parametrize("insight", [None, {"peaks": None, "anatomies": [{"candidate": "int8-static", "layers": 3}]}])
def test_reports_of_other_versions_have_no_layers_and_are_compared(insight: Any, tmp_path: Path) -> None:
    report = made_reports.labelled()
    page = page_of(given(tmp_path / "a", report, insight=insight), given(tmp_path / "b", report))
    assert page.spent is None
    assert page.headline == "Nothing that can be compared differs"


def page_of_bench() -> Page:
    before = [entry(0, model="net.onnx", baseline="sha256:aa", numbers={"file-size": Number(4e6)})]
    after = [entry(1, model="net.onnx", baseline="sha256:aa", numbers={"file-size": Number(3e6)})]
    return page_of(Given("a.json", before, None), Given("b.json", after, None))


def test_results_that_are_no_bundles_have_numbers_and_no_facts() -> None:
    page = page_of_bench()
    assert page.headline == "B beside A: file size better"
    assert page.tone == "good"
    assert page.first
    assert page.blocks == ()
    assert page.differing == page.same == ()


def test_nothing_is_loaded_and_names_stay_text(tmp_path: Path) -> None:
    one = given(tmp_path / "a", made_reports.nasty())
    html = to_html(one, replace(one, name="<b>it's</b>"))
    assert "<script" not in html
    assert "<b>it" not in html
    assert "\x1b" not in html
    assert set(re.findall(r"https?://[^\"'\s<]+", html)) <= {"http://www.w3.org/2000/svg"}
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
