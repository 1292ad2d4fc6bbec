"""Budgets on the command line: kept, missed by what ships, kept by nothing, or by nothing at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import walks
from walks import compiled, run, small_place

from mlopt import paths

RECIPES = ("--recipe", "fp32", "--recipe", "int8-static")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_place(tmp_path_factory.mktemp("budgets"))


def test_a_budget_that_what_ships_misses_is_exit_code_1(place: Path, tmp_path: Path) -> None:
    base = (place / "net.onnx").stat().st_size
    walks.profile(tmp_path, f'file-size = "{base // 2}B"', name="half")
    half = ("-p", tmp_path / "half.toml", "--samples", "samples.npz", *RECIPES, "--no-image", "-o", tmp_path)
    ended = run(place, "compile", "net.onnx", *half, "--ship", "baseline")
    assert ended.returncode == 1, ended.stderr
    assert "file-size" in ended.stderr
    assert "next:" in ended.stderr
    assert (tmp_path / "net" / "host" / "bundle.json").is_file()


def test_a_budget_that_no_candidate_keeps_is_exit_code_5(place: Path, tmp_path: Path) -> None:
    walks.profile(tmp_path, 'file-size = "1kB"\nlatency-p99 = "10s"', name="none")
    none = ("-p", tmp_path / "none.toml", "--samples", "samples.npz", *RECIPES, "--no-image", "-o", tmp_path)
    ended = run(place, "compile", "net.onnx", *none)
    assert ended.returncode == 5, ended.stderr
    assert "the budget is 1 kB" in ended.stderr
    assert "int8-static, the nearest" in ended.stderr
    assert "latency" not in ended.stderr, "the budget that is kept is not complained of"
    assert (tmp_path / "net" / "host" / "bundle.json").is_file()


def test_budgets_that_only_exclude_each_other_are_exit_code_5_with_the_nearest(place: Path, tmp_path: Path) -> None:
    base = (place / "net.onnx").stat().st_size
    asked = ("-p", "./fast.toml", "--samples", "samples.npz", *RECIPES, "--no-image", "-o", tmp_path)
    ended = run(place, "compile", "net.onnx", *asked, "--max-drop", "0%", "--max-size", f"{base // 2}B")
    assert ended.returncode == 5, ended.stderr
    assert "each of file-size, max-drop is kept by one or another, and all at once by none" in ended.stderr
    assert re.search(r"comes nearest: it keeps every budget with --max-(drop [0-9.]+%|size [0-9.]+kB)", ended.stderr)


def test_a_drop_that_was_asked_for_without_labels_bounds_the_answers_that_change(place: Path, tmp_path: Path) -> None:
    with np.load(place / "samples.npz") as arrays:
        np.savez(tmp_path / "unlabelled.npz", x=arrays["x"])
    asked = ("-p", "./fast.toml", "--samples", tmp_path / "unlabelled.npz", *RECIPES, "--no-image", "-o", tmp_path)
    ended = run(place, "compile", "net.onnx", *asked, "--json", "--max-drop", "40%")
    assert "no labels: max-drop is judged as min-agreement 60 %" in ended.stderr
    (verdict,) = next(one for one in json.loads(ended.stdout)["candidates"] if one["name"] == "int8-static")["verdicts"]
    assert (verdict["budget"], verdict["limit"], verdict["outcome"]) == ("min-agreement", 0.6, "met")


def test_what_is_small_enough_ships_where_the_original_is_not(place: Path, tmp_path: Path) -> None:
    base = (place / "net.onnx").stat().st_size
    asked = ("--samples", "samples.npz", *RECIPES, "--max-size", f"{base // 2}B")
    report, _ = compiled(place, *asked, out=tmp_path)
    assert report["winner"] == "int8-static"
    assert "file-size" in {verdict["budget"] for one in report["candidates"] for verdict in one["verdicts"]}


def test_a_search_that_keeps_nothing_is_not_timed_twice(place: Path, tmp_path: Path) -> None:
    told = paths.declarations("optimize")["int8-mixed"].read_text()
    before, equalize, rest = told.split("[[step]]", 2)
    assert '"equalize"' in equalize, "which gives other bytes"
    (place / "searched.toml").write_text(f"{before}[[step]]{rest}")
    recipes = ("--recipe", "./searched.toml", "--recipe", "int8-static")
    report, _ = compiled(place, "--samples", "samples.npz", "-p", "./small.toml", *recipes, out=tmp_path)
    mixed = next(one for one in report["candidates"] if one["name"] == "searched")
    assert mixed["failure"] == "it comes out as int8-static, byte for byte"
    report, _ = compiled(
        place, "--samples", "samples.npz", "-p", "./small.toml", *recipes, "--ship", "searched", out=tmp_path
    )
    assert report["winner"] == "searched", "what was asked for by name ships, whoever else is the same"


def test_quantize_to_a_budget(place: Path, tmp_path: Path) -> None:
    (place / "quick.toml").write_text(f'schema = 1\n[compile]\nprofile = "{place / "fast.toml"}"\n')
    asked = ("--samples", "samples.npz", "-o", tmp_path, "--json", "-q", "--project", place / "quick.toml")
    ended = run(place, "quantize", "net.onnx", "--max-drop", "40%", *asked)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["winner"] == "int8-mixed"
    ended = run(place, "quantize", "net.onnx", "--max-drop", "0.1%", *asked)
    assert ended.returncode == 5
    assert "cannot prove a drop of at most 0.1 points for any model that changes an answer" in ended.stderr
    assert "the least that they can is 7.3 points" in ended.stderr
    ended = run(place, "quantize", "net.onnx", "-r", "int8-static", "--max-drop", "0.1%", *asked)
    assert ended.returncode == 1
    assert "int8-static is written, and it misses a budget: max-drop" in ended.stderr
