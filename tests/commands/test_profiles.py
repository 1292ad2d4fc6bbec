"""`mlopt profiles`: budgets in words and in numbers."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from mlopt.commands.profiles import command
from mlopt.errors import UnknownName
from mlopt.profile import profile_names


def run(*arguments: str, columns: int = 80) -> Result:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_list_shows_every_profile_and_the_default() -> None:
    lines = run("list", columns=120).output.splitlines()
    assert max(map(len, run("list").output.splitlines())) <= 80
    assert [line.split()[0] for line in lines[1:] if line and line[0] != " "][: len(profile_names())] == list(
        profile_names()
    )
    assert any(line.startswith("balanced") and "used when none is named" in line for line in lines)


@pytest.mark.parametrize("name", profile_names())
@pytest.mark.parametrize("columns", [80, 100])
def test_show_fits_and_spells_every_budget(name: str, columns: int) -> None:
    output = run("show", name, columns=columns).output
    assert max(len(line) for line in output.splitlines() if not line.startswith("  file ")) <= columns
    facts = json.loads(run("show", name, "--json").output)
    said, gate = output.split("\nmethod\n")[0], output.split("\ngate\n")[1]
    for part, given in ((said, facts["budgets"]), (gate, {**facts["gate"], "seconds": None})):
        for key, value in given.items():
            assert (f"  {key.replace('_', '-')} " in part) == (value is not None)


def test_budgets_read_like_a_sentence() -> None:
    output = " ".join(run("show", "realtime-30fps").output.split())
    assert "latency-p99 at most 20 ms: of one query" in output
    assert "min-agreement at least 95 %" in output
    assert "max-drop at most 2 %: of top-1" in output


def test_json_is_in_base_units() -> None:
    facts = json.loads(run("show", "edge-memory", "--json").output)
    assert facts["budgets"]["peak_memory"] == 256 * 2**20
    assert facts["budgets"]["load_time"] == 5.0
    assert facts["method"]["scenario"] == "single-stream"


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(UnknownName, match="Did you mean"):
        run("show", "lossles")
