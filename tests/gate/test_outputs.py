"""What a gate writes, read by what reads it: parsers of each format, and the rules of its schema."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import xml.etree.ElementTree as ElementTree

import jsonschema
import pytest
from ci_schemas import NASTY, SARIF, check_junit
from gate_results import made
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mlopt.gate.outputs import FORMATS, to_bencher, to_benchmark_json, to_csv
from mlopt.gate.result import Check, GateResult, Slower
from mlopt.gate.text import to_terminal
from mlopt.measurement import Interval

# github-action-benchmark: an array of these, by its documentation of custom tools.
BENCHMARK = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
    },
}

# Bencher Metric Format: benchmark, measure, numbers.
BENCHER = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": {
            "type": "object",
            "required": ["value"],
            "additionalProperties": False,
            "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
        },
    },
}


@pytest.fixture(params=["pass", "fail", "inconclusive", "nasty"])
def result(request: pytest.FixtureRequest) -> GateResult:
    return made(name=NASTY) if request.param == "nasty" else made(request.param)


def test_junit_has_one_case_for_each_check(result: GateResult) -> None:
    root = ElementTree.fromstring(FORMATS["junit"](result))
    check_junit(root)
    suite = root[0]
    cases = suite.findall("testcase")
    assert int(suite.get("tests", "")) == len(cases) == len(result.checks) + len(result.not_compared)
    failed = [case.get("name") for case in cases if case.find("failure") is not None]
    assert failed == [check.metric for check in result.checks if check.verdict == "fail"]
    assert int(suite.get("failures", "")) == len(failed)
    assert int(suite.get("skipped", "")) == len(suite.findall("testcase/skipped"))


def test_sarif_follows_the_standard(result: GateResult) -> None:
    found = json.loads(FORMATS["sarif"](result))
    jsonschema.validate(found, SARIF)
    run = found["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[one["ruleIndex"]]["id"] == one["ruleId"] for one in run["results"])
    errors = [one for one in run["results"] if one["level"] == "error"]
    assert len(errors) == sum(check.verdict == "fail" for check in result.checks)


def test_benchmark_json_is_what_the_action_reads(result: GateResult) -> None:
    found = json.loads(to_benchmark_json(result))
    jsonschema.validate(found, BENCHMARK)
    assert {one["name"] for one in found} == {"latency-p50", "peak-memory", "file-size"}, "smaller is better"
    assert next(one for one in found if one["name"] == "latency-p50")["value"] == pytest.approx(1.12)


def test_bencher_gets_its_metric_format(result: GateResult) -> None:
    found = json.loads(to_bencher(result))
    jsonschema.validate(found, BENCHER)
    latency = found[result.candidate.name]["latency"]
    assert latency["value"] == pytest.approx(1.12e6), "nanoseconds"
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]


def test_bencher_bounds_answers_by_what_may_be_lost() -> None:
    """Of 80 points 2 are lost, 1 to 3 by the interval: 77 to 79 are left."""
    lost = Check("top1", "regression", "fail", "share", 0.8, 0.78, Interval(0.02, 0.01, 0.03, "m"), 0.005, "m")
    result = dataclasses.replace(made(), checks=(lost,), measured={"top1": 0.78})
    (found,) = json.loads(to_bencher(result)).values()
    assert found["top1"] == pytest.approx({"value": 0.78, "lower_value": 0.77, "upper_value": 0.79})


def test_openmetrics_is_parsed_by_prometheus(result: GateResult) -> None:
    families = {one.name: one for one in text_string_to_metric_families(FORMATS["openmetrics"](result))}
    verdicts = {
        (sample.labels["metric"], sample.labels["kind"]): sample.value
        for sample in families["mlopt_gate_verdict"].samples
    }
    words = {"pass": 0.0, "fail": 1.0, "inconclusive": 2.0}
    assert verdicts == {(check.metric, check.kind): words[check.verdict] for check in result.checks}
    assert {sample.labels["profile"] for sample in families["mlopt_gate_candidate"].samples} == {"ci-gate"}


def test_csv_has_one_row_for_each_check_and_no_formula(result: GateResult) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(result))))
    assert [row["metric"] for row in rows] == [check.metric for check in result.checks]
    assert float(rows[1]["change"]) == pytest.approx(0.118)
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())


def test_slower_layers_are_a_table_in_both_texts() -> None:
    result = dataclasses.replace(made("fail"), slower=(Slower("conv|1", "Conv + Relu", 0.0004, 0.0005),))
    shown = to_terminal(result, width=100, color=False).splitlines()
    assert "layer   operators    baseline  candidate     more" in shown
    assert "conv|1  Conv + Relu    400 µs     500 µs  +100 µs" in shown
    assert "conv|1    400 µs     500 µs  +100 µs" in to_terminal(result, width=40, color=False).splitlines()
    (row,) = (line for line in FORMATS["markdown"](result).splitlines() if "Conv" in line)
    assert row == "| conv\\|1 | Conv + Relu | 400 µs | 500 µs | +100 µs |"
    assert "profiler" not in FORMATS["markdown"](made("pass"))


def test_markdown_is_a_table_that_names_cannot_break(result: GateResult) -> None:
    shown = FORMATS["markdown"](result)
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(result.checks)
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<here>" not in shown
    assert "\x1b" not in shown
