"""`mlopt cache` as a person types it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlopt.artifact import Format
from mlopt.commands.cache import command
from mlopt.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one result that was last used ten days ago."""
    (tmp_path / "model.onnx").write_bytes(b"x" * 2048)
    Store(tmp_path / "st").adopt(tmp_path / "model.onnx", Format("onnx"))
    (home,) = (tmp_path / "st" / "results").iterdir()
    then = time.time() - 10 * 86400
    os.utime(home, (then, then))
    return tmp_path / "st"


def run(root: Path, *arguments: str) -> Result:
    verb, *rest = arguments
    return CliRunner().invoke(command, [verb, "--cache-dir", str(root), *rest], catch_exceptions=False)


def test_path_names_the_store_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLOPT_CACHE_DIR", str(tmp_path / "mine"))
    assert CliRunner().invoke(command, ["path"]).output.strip() == str(tmp_path / "mine")


def test_ls_fits_a_terminal_and_counts(root: Path) -> None:
    shown = run(root, "ls").output
    assert "model.onnx" in shown
    assert "10 d ago" in shown
    assert "1 entry" in shown
    assert max(map(len, shown.splitlines()[:2])) <= 100


def test_ls_of_no_store_is_not_an_error(tmp_path: Path) -> None:
    result = run(tmp_path / "none", "ls")
    assert result.exit_code == 0
    assert "empty" in result.output


def test_ls_as_json(root: Path) -> None:
    (entry,) = json.loads(run(root, "ls", "--json").output)["entries"]
    assert (entry["room"], entry["made_by"]) == ("results", "model.onnx")
    assert entry["bytes"] > 2048


def test_verify_says_what_it_removed(root: Path) -> None:
    assert "all whole" in run(root, "verify").output
    (file,) = root.glob("results/*/data/model.onnx")
    file.write_bytes(b"y" * 2048)
    facts = json.loads(run(root, "verify", "--json").output)
    assert facts["checked"] == 1
    assert "content" in facts["removed"][0]["reason"]
    assert not file.exists()


def test_gc_keeps_thirty_days_unless_told(root: Path) -> None:
    assert "removed 0 entries" in run(root, "gc").output
    assert "would remove 1 entry" in run(root, "gc", "--older-than", "1w", "--dry-run").output
    assert "removed 1 entry" in run(root, "gc", "--older-than", "1w").output
    assert "empty" in run(root, "ls").output


def test_gc_by_size_as_json(root: Path) -> None:
    assert json.loads(run(root, "gc", "--keep", "1MiB", "--json").output)["removed"] == []
    facts = json.loads(run(root, "gc", "--keep", "1KiB", "--json").output)
    assert [entry["made_by"] for entry in facts["removed"]] == ["model.onnx"]
    assert facts["bytes"] > 2048


@pytest.mark.parametrize("bad", [("--older-than", "30"), ("--older-than", "soon"), ("--keep", "5"), ("--keep", "-1GB")])
def test_a_quantity_without_a_unit_is_refused(root: Path, bad: tuple[str, str]) -> None:
    result = run(root, "gc", *bad)
    assert result.exit_code == 2
    assert "write it like" in result.output or "has no unit" in result.output
    assert list(root.glob("results/*"))
