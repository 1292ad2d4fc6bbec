"""What compile and bench write for CI, read by what reads it."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jsonschema
import pytest
from ci_schemas import NASTY, SARIF, check_junit
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from report import made_reports

from mlopt.ci.junit import to_junit
from mlopt.ci.openmetrics import to_openmetrics
from mlopt.ci.results import gauges_of, suite_of_report, write
from mlopt.ci.sarif import to_sarif
from mlopt.report.report import Report, to_json
from mlopt.report.text import cleaned


@pytest.fixture(params=sorted(made_reports.ALL))
def report(request: pytest.FixtureRequest) -> Report:
    return made_reports.ALL[request.param]()


def test_junit_has_a_case_for_each_budget_of_what_ships(report: Report) -> None:
    root = ElementTree.fromstring(to_junit([suite_of_report(report), suite_of_report(report)]))
    check_junit(root)
    first, second = root
    assert first.get("tests") == second.get("tests")
    assert int(root.get("tests", "")) == 2 * int(first.get("tests", ""))
    budgets = [case for case in first if str(case.get("name")).startswith("budget ")]
    shipped = report.candidate(report.winner).verdicts if report.winner else ()
    assert len(budgets) == len(shipped)
    failed = [case.get("name") for case in budgets if case.find("failure") is not None]
    assert failed == [f"budget {one.budget}" for one in shipped if one.outcome == "missed"]


def test_sarif_has_a_run_for_each_model(report: Report) -> None:
    found = json.loads(to_sarif([suite_of_report(report), suite_of_report(report)]))
    jsonschema.validate(found, SARIF)
    assert len(found["runs"]) == 2


def test_openmetrics_has_every_number(report: Report) -> None:
    plain = to_json(report)
    families = {one.name: one for one in text_string_to_metric_families(to_openmetrics(gauges_of([plain])))}
    if all(candidate.failure for candidate in report.candidates):
        assert not families
        return
    values = {
        (one.labels["variant"], one.labels["metric"]): one.value for one in families["mlopt_compile_value"].samples
    }
    for candidate in report.candidates:
        if not candidate.failure:
            assert values[cleaned(candidate.name), "file-size"] == candidate.file_size


def test_names_from_strangers_stay_text() -> None:
    report = next(iter(made_reports.ALL.values()))()
    odd = dataclasses.replace(report, model=dataclasses.replace(report.model, name=NASTY))
    check_junit(ElementTree.fromstring(to_junit([suite_of_report(odd)])))
    jsonschema.validate(json.loads(to_sarif([suite_of_report(odd)])), SARIF)
    list(text_string_to_metric_families(to_openmetrics(gauges_of([to_json(odd)]))))


def test_one_output_that_cannot_be_written_loses_no_other(tmp_path: Path) -> None:
    report = next(iter(made_reports.ALL.values()))()
    (tmp_path / "file").write_text("")
    files = {"junit": tmp_path / "file" / "x.xml", "sarif": tmp_path / "x.sarif", "openmetrics": None}
    (failed,) = write(files, [suite_of_report(report)], [to_json(report)])
    assert "cannot be written" in failed.what
    assert (tmp_path / "x.sarif").is_file()
