"""The files of a report: JSON that its shipped schema accepts and other JSON it refuses."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from report import made_reports

from mlopt.report.files import write_report
from mlopt.report.json_schema import FOLDER, PUBLISHED, schema_of, schema_text
from mlopt.report.report import Report


@pytest.mark.parametrize("name", made_reports.ALL)
def test_all_files_are_written_and_follow_the_shipped_schemas(name: str, tmp_path: Path) -> None:
    written = write_report(made_reports.ALL[name](), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    for kind in ("report", "variants"):
        value = json.loads((tmp_path / f"{kind}.json").read_bytes(), parse_constant=_refuse)
        schema = json.loads((FOLDER / f"{kind}.schema.json").read_bytes())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(value, schema)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shipped_schemas_are_current(name: str) -> None:
    assert (FOLDER / name).read_text(encoding="utf-8") == schema_text(PUBLISHED[name]), (
        "the dataclasses changed: run `python -m mlopt.report.json_schema`"
    )


def test_the_schema_refuses_what_a_report_is_not(tmp_path: Path) -> None:
    write_report(made_reports.labelled(), tmp_path)
    good = json.loads((tmp_path / "report.json").read_bytes())
    check = jsonschema.Draft202012Validator(schema_of(Report))
    for break_it in (
        lambda value: value.pop("winner"),
        lambda value: value.update(surprise=1),
        lambda value: value["candidates"][0]["measurement"].update(grade="guessed"),
        lambda value: value["candidates"][0]["measurement"]["latency"].update(p50="fast"),
        lambda value: value["image"]["platforms"]["linux/amd64"].append(["layer", 1]),
        lambda value: value["samples"].update(labelled=None),
    ):
        bad = copy.deepcopy(good)
        break_it(bad)
        assert not check.is_valid(bad)
    assert check.is_valid(good)


def test_infinity_is_null_and_single_latencies_are_in_the_report_only(tmp_path: Path) -> None:
    write_report(made_reports.labelled(), tmp_path)
    report = json.loads((tmp_path / "report.json").read_bytes())
    variants = json.loads((tmp_path / "variants.json").read_bytes())
    assert report["candidates"][0]["accuracy"]["sqnr"] is None
    assert len(report["candidates"][0]["measurement"]["latency"]["samples"]) == 400
    assert variants["candidates"][0]["measurement"]["latency"]["samples"] == []
    assert variants["winner"] == "int8-static"
    assert [one["name"] for one in variants["candidates"]] == [one["name"] for one in report["candidates"]]


def test_a_name_that_is_not_unicode_does_not_stop_the_report(tmp_path: Path) -> None:
    report = made_reports.labelled()
    broken = replace(report, model=replace(report.model, name="half \udcff pair"))
    for path in write_report(broken, tmp_path):
        path.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_bytes())


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def test_rendering_on_a_terminal_loads_no_heavy_library() -> None:
    code = (
        "import sys, mlopt.report.terminal, mlopt.report.files; "
        "print(sorted({'numpy', 'jinja2', 'onnx', 'onnxruntime', 'torch', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
