"""What a gate writes, read by what reads it: parsers of each format, and the rules of its schema."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import xml.etree.ElementTree as ElementTree

import jsonschema
import pytest
from gate_results import made
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from mlopt.gate.outputs import FORMATS, to_bencher, to_benchmark_json, to_csv
from mlopt.gate.result import Check, GateResult
from mlopt.measurement import Interval

NASTY = 'a"b\\c<&>\x1b[2J|`x`\n=1.onnx'

# By element: attributes that must be there, those that may, and the children. After the schema of Jenkins' reader.
JUNIT = {
    "testsuites": (set(), {"name", "time", "tests", "failures", "errors", "disabled"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests"},
        {
            "name",
            "tests",
            "failures",
            "errors",
            "time",
            "disabled",
            "skipped",
            "timestamp",
            "hostname",
            "id",
            "package",
        },
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), set(), {"property"}),
    "property": ({"name", "value"}, {"name", "value"}, set()),
    "testcase": (
        {"name", "classname"},
        {"name", "classname", "time", "assertions", "status"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "skipped": (set(), {"message", "type"}, set()),
    "failure": (set(), {"message", "type"}, set()),
    "system-out": (set(), set(), set()),
}

# The part of the standard's schema that is used here, with its rule that only a failure has a level.
SARIF = {
    "type": "object",
    "required": ["version", "runs"],
    "additionalProperties": False,
    "properties": {
        "version": {"const": "2.1.0"},
        "runs": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/run"}},
    },
    "$defs": {
        "run": {
            "type": "object",
            "required": ["tool"],
            "additionalProperties": False,
            "properties": {
                "tool": {
                    "type": "object",
                    "required": ["driver"],
                    "properties": {
                        "driver": {
                            "type": "object",
                            "required": ["name"],
                            "additionalProperties": False,
                            "properties": {
                                "name": {"type": "string"},
                                "semanticVersion": {"type": "string"},
                                "rules": {"type": "array", "uniqueItems": True, "items": {"required": ["id"]}},
                            },
                        }
                    },
                },
                "results": {"type": "array", "items": {"$ref": "#/$defs/result"}},
                "invocations": {"type": "array", "items": {"required": ["executionSuccessful"]}},
                "properties": {"type": "object"},
            },
        },
        "result": {
            "type": "object",
            "required": ["message"],
            "additionalProperties": False,
            "properties": {
                "ruleId": {"type": "string"},
                "ruleIndex": {"type": "integer", "minimum": 0},
                "kind": {"enum": ["notApplicable", "pass", "fail", "review", "open", "informational"]},
                "level": {"enum": ["none", "note", "warning", "error"]},
                "message": {"type": "object", "required": ["text"]},
                "locations": {"type": "array"},
                "partialFingerprints": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "if": {"properties": {"kind": {"not": {"const": "fail"}}}},
            "then": {"properties": {"level": {"const": "none"}}},
        },
    },
}

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


def check_junit(element: ElementTree.Element) -> None:
    needed, known, children = JUNIT[element.tag]
    assert needed <= set(element.attrib) <= known, element.tag
    for child in element:
        assert child.tag in children, f"{child.tag} in {element.tag}"
        check_junit(child)


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


def test_markdown_is_a_table_that_names_cannot_break(result: GateResult) -> None:
    shown = FORMATS["markdown"](result)
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(result.checks)
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "<here>" not in shown
    assert "\x1b" not in shown
