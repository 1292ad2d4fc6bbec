"""`mlopt recipes`: steps with every option, and what a recipe needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mlopt.commands.recipes import command
from mlopt.errors import UnknownName
from mlopt.recipe import recipe_names


def run(*arguments: str, columns: int = 80) -> Result:
    result = CliRunner(env={"COLUMNS": str(columns)}).invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_list_shows_every_recipe() -> None:
    output = run("list").output
    assert max(map(len, output.splitlines())) <= 80
    assert all(f"\n{name} " in output for name in recipe_names())


@pytest.mark.parametrize("name", recipe_names())
def test_show_fits_and_finds_every_step(name: str) -> None:
    output = run("show", name).output
    assert max(len(line) for line in output.splitlines() if not line.startswith("  file ")) <= 80
    assert "\nstep 1: " in output
    assert "no such option" not in output


def test_show_tells_given_options_from_defaults() -> None:
    lines = [line.split() for line in run("show", "int8-static").output.splitlines()]
    assert ["scheme", "auto"] in lines
    assert ["op-types", "all", "(default)"] in lines


def test_an_option_that_the_step_lacks_is_said(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('summary = "s"\nprecision = "fp16"\n[[step]]\nname = "convert-fp16"\nkeep-oi = true\n')
    assert "keep-oi yes (the step has no such option)" in " ".join(run("show", str(mine)).output.split())
    mine.write_text('summary = "s"\nprecision = "fp16"\n[[step]]\nname = "convert-fp-16"\n')
    with pytest.raises(UnknownName, match="Did you mean convert-fp16"):
        run("show", str(mine))


def test_json_has_the_steps() -> None:
    facts = json.loads(run("show", "int8-static", "--json").output)
    assert facts["needs_samples"] is True
    options = {step["name"]: step["options"] for step in facts["steps"]}
    assert options["quantize-static"]["scheme"] == "auto"
    assert len(json.loads(run("list", "--json").output)) == len(recipe_names())
