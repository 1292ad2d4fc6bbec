"""`mlopt history` and what records into it, as they are typed."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from history.histories import made
from nets import conv_net, save

from mlopt.history.entry import line_of
from mlopt.history.shelf import History

FAST = 'schema = 1\nsummary = "for tests"\n[method]\nwarm-up = 1\nrounds = 4\nseconds = "0.4s"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    save(conv_net(), tmp_path / "net.onnx")
    save(conv_net(width=8), tmp_path / "small.onnx")
    (tmp_path / "fast.toml").write_text(FAST)
    return tmp_path


def run(place: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mlopt", *map(str, arguments)]
    told = {**os.environ, "MLOPT_CACHE_DIR": str(place / "store"), "COLUMNS": "100", **environment}
    return subprocess.run(command, cwd=place, capture_output=True, text=True, env=told, check=False)


def git(place: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=place, capture_output=True, text=True, check=True).stdout


def test_bench_records_at_its_commit(place: Path) -> None:
    git(place, "init", "-q")
    git(place, "add", "net.onnx")
    git(place, "commit", "-q", "-m", "first")
    ended = run(place, "bench", "net.onnx", "small.onnx", "-p", "./fast.toml", "-q", "--history", "h.db")
    assert ended.returncode == 0, ended.stderr
    (place / "net.onnx").touch()
    assert run(place, "bench", "net.onnx", "-p", "./fast.toml", "-q", MLOPT_HISTORY="h.db").returncode == 0
    with History(place / "h.db") as history:
        first, second, third = history.entries()
    commit = git(place, "rev-parse", "HEAD").strip()
    assert {one.revision for one in (first, second, third)} == {commit}
    assert not first.dirty
    assert (first.model, second.model, second.baseline) == ("net.onnx", "small.onnx", first.digest)
    assert "relative-latency" in second.numbers
    assert "relative-latency" not in first.numbers
    assert second.numbers["relative-latency"].low is not None
    shown = run(place, "history", "show", "--history", "h.db")
    assert shown.returncode == 0, shown.stderr
    assert "3 results of 2 models" in shown.stdout
    assert all(len(line) <= 100 for line in shown.stdout.splitlines())


def test_without_a_history_nothing_is_recorded(place: Path) -> None:
    ended = run(place, "bench", "net.onnx", "-p", "./fast.toml", "-q")
    assert ended.returncode == 0, ended.stderr
    assert not list(place.glob("*.db*"))
    ended = run(place, "history", "show")
    assert ended.returncode == 2
    assert "No history is named" in ended.stderr


def test_the_project_file_names_the_history(place: Path) -> None:
    (place / "mlopt.toml").write_text('schema = 1\n[history]\nfile = "kept/h.db"\n')
    assert run(place, "bench", "net.onnx", "-p", "./fast.toml", "-q").returncode == 0
    shown = run(place, "history", "show")
    assert "1 result of 1 model" in shown.stdout, shown.stderr


def test_a_result_is_printed_though_its_history_cannot_be_kept(place: Path) -> None:
    (place / "h.db").write_text("no database, though it has the name of one\n" * 30)
    ended = run(place, "bench", "net.onnx", "-p", "./fast.toml", "-q", "--json", "--history", "h.db")
    assert ended.returncode == 19
    assert json.loads(ended.stdout)["kind"] == "mlopt-bench"
    assert "no history of mlopt" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_compile_records_every_candidate(place: Path) -> None:
    asked = ("--no-image", "-r", "fp16", "-p", "./fast.toml", "-q", "--history", "h.db")
    ended = run(place, "compile", "net.onnx", "--target", "host", *asked)
    assert ended.returncode == 0, ended.stderr
    with History(place / "h.db") as history:
        found = {one.variant: one for one in history.entries()}
    assert set(found) == {"baseline", "fp16"}
    assert found["fp16"].verb == "compile"
    assert found["fp16"].baseline == found["baseline"].digest
    assert found["fp16"].numbers["file-size"].value < found["baseline"].numbers["file-size"].value
    bundle = place / "out" / "net" / "host"
    compared = run(place, "compare", bundle, bundle)
    assert compared.returncode == 0, compared.stderr
    assert "net fp16: the same bytes" in compared.stdout
    paged = run(place, "compare", bundle, bundle, "--html", "both.html")
    assert paged.returncode == 0, paged.stderr
    assert "page  both.html" in paged.stdout
    assert "Nothing that can be compared differs" in (place / "both.html").read_text()
    refused = run(place, "compare", bundle, bundle, "--html", "net.onnx/both.html")
    assert refused.returncode not in (0, 1), "a page that cannot be written is an error with a code of its own"
    assert "Traceback" not in refused.stderr


def test_export_and_import_carry_all_of_it_once(place: Path) -> None:
    with History(place / "a.db", create=True) as history:
        history.add(made(4))
    lines = run(place, "history", "export", "--history", "a.db").stdout
    assert len(lines.splitlines()) == 8
    (place / "a.jsonl").write_text(lines)
    said = run(place, "history", "import", "a.jsonl", "--history", "b.db")
    assert said.stdout == "8 added, 0 were there already\n", said.stderr
    assert run(place, "history", "import", "a.jsonl", "--history", "b.db").stdout.startswith("0 added, 8 were")
    assert run(place, "history", "export", "--history", "b.db").stdout == lines


def test_an_import_with_a_bad_line_adds_nothing(place: Path) -> None:
    (place / "bad.jsonl").write_text(line_of(made(1)[0]) + "\nnot json\n")
    ended = run(place, "history", "import", "bad.jsonl", "--history", "b.db")
    assert ended.returncode == 19
    assert "bad.jsonl:2" in ended.stderr
    assert not (place / "b.db").exists()


def test_a_page_is_one_file_that_loads_nothing(place: Path) -> None:
    with History(place / "h.db", create=True) as history:
        history.add(made())
    ended = run(place, "history", "show", "--history", "h.db", "--html", "out/trend.html", "--model", "net.onnx")
    assert ended.returncode == 0, ended.stderr
    page = (place / "out" / "trend.html").read_text()
    assert "2 changes: 2 for the worse" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<svg") == 4


def test_a_page_takes_the_place_of_a_page_and_of_nothing_else(place: Path) -> None:
    with History(place / "h.db", create=True) as history:
        history.add(made(2))
    show = ("history", "show", "--history", "h.db", "--html")
    (place / "mine.html").write_text("<!doctype html>mine")
    for name in ("mine.html", "h.db"):
        before = (place / name).read_bytes()
        ended = run(place, *show, name)
        assert ended.returncode == 2
        assert "no page of mlopt's" in ended.stderr
        assert (place / name).read_bytes() == before
    (place / "empty.html").touch()
    for name in ("empty.html", "empty.html", "new.html"):
        assert run(place, *show, name).returncode == 0
        assert "mlopt" in (place / name).read_text()


def test_names_that_are_not_there_are_said(place: Path) -> None:
    with History(place / "h.db", create=True) as history:
        history.add(made(1))
    ended = run(place, "history", "show", "--history", "h.db", "--model", "net.onx")
    assert ended.returncode == 18
    assert "Did you mean net.onnx?" in ended.stderr
    assert run(place, "history", "show", "--history", "h.db", "--metric", "speed").returncode == 18


def test_series_as_json(place: Path) -> None:
    with History(place / "h.db", create=True) as history:
        history.add(made())
    ended = run(place, "history", "show", "--history", "h.db", "--metric", "file-size", "--json")
    found = {one["model"]: one for one in json.loads(ended.stdout)}
    assert len(found["net.onnx"]["points"]) == 40
    assert [one["after"] for one in found["net.onnx"]["changes"]] == [44_000]


def test_a_name_from_a_stranger_does_no_harm(place: Path) -> None:
    odd = [dataclasses.replace(one, model="<script>\x1b[31m") for one in made(2)]
    with History(place / "h.db", create=True) as history:
        history.add(odd)
    ended = run(place, "history", "show", "--history", "h.db", "--html", "t.html")
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "<script>" not in (place / "t.html").read_text()


def test_plain_sql_reads_it(place: Path) -> None:
    with History(place / "h.db", create=True) as history:
        history.add(made(3))
    asked = "SELECT count(*) FROM entry JOIN number ON number.entry = entry.id WHERE metric = 'file-size'"
    assert sqlite3.connect(place / "h.db").execute(asked).fetchone() == (6,)


def test_two_results_of_bench_are_compared(place: Path) -> None:
    for name in ("a.json", "b.json"):
        ended = run(place, "bench", "net.onnx", "small.onnx", "-p", "./fast.toml", "-q", "--json")
        (place / name).write_text(ended.stdout)
    ended = run(place, "compare", "a.json", "b.json")
    assert ended.returncode == 0, ended.stderr
    assert "small.onnx: the same bytes" in ended.stdout
    assert "relative-latency" in ended.stdout
    assert "not compared: latency-p50" in ended.stdout
    assert all(len(line) <= 100 for line in ended.stdout.splitlines())
    found = json.loads(run(place, "compare", "a.json", "b.json", "--json").stdout)
    assert [one["before"]["model"] for one in found["matches"]] == ["net.onnx", "small.onnx"]


@pytest.mark.slow
def test_a_gate_records_what_it_found_beside_its_baseline(place: Path) -> None:
    (place / "fast.toml").write_text(FAST + '[gate]\nlatency-p50 = "60%"\npeak-memory = "90%"\nseconds = "20s"\n')
    ended = run(place, "gate", "small.onnx", "-b", "net.onnx", "-p", "./fast.toml", "-q", "--history", "h.db", "--json")
    assert ended.returncode == 0, ended.stderr
    (place / "gate.json").write_text(ended.stdout)
    with History(place / "h.db") as history:
        (found,) = history.entries()
    assert (found.verb, found.model) == ("gate", "small.onnx")
    assert found.baseline == json.loads(ended.stdout)["baseline"]["digest"]
    assert found.numbers["relative-latency"].value < 1
    assert "the same bytes" in run(place, "compare", "gate.json", "gate.json").stdout


def test_bench_writes_what_ci_reads(place: Path) -> None:
    (place / "fast.toml").write_text(FAST + '[budgets]\nfile-size = "5kB"\n')
    files = ("--junit", "o/out.xml", "--sarif", "o/out.sarif", "--openmetrics", "o/out.prom")
    ended = run(place, "bench", "net.onnx", "small.onnx", "-p", "./fast.toml", "-q", *files)
    assert ended.returncode == 0, ended.stderr
    suites = ElementTree.parse(place / "o" / "out.xml").getroot()
    assert [(one.get("name"), one.get("failures")) for one in suites] == [
        ("mlopt bench net.onnx", "1"),
        ("mlopt bench small.onnx", "0"),
    ]
    assert len(json.loads((place / "o" / "out.sarif").read_text())["runs"]) == 2
    assert 'metric="latency-p50"' in (place / "o" / "out.prom").read_text()


def test_words_that_are_verbs_are_not_taken_for_models(place: Path) -> None:
    ended = run(place, "bench", "compare", "a.json", "b.json")
    assert ended.returncode == 2
    assert "mlopt compare --help" in ended.stderr
