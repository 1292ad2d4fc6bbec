"""Recipes: what ships names real steps with options that they have."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from mlopt import paths, registry
from mlopt.errors import ConfigInvalid, UnknownName
from mlopt.recipe import StepSpec, all_recipes, find_recipe, recipe_names

SHIPPED = sorted(path.stem for path in paths.folder("optimize").glob("*.toml"))


@pytest.fixture(autouse=True)
def _no_own_declarations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def test_the_kinds_that_were_promised_are_there() -> None:
    assert {"fp32", "fp16", "int8-dynamic", "int8-static", "int4-weights"} <= set(SHIPPED)
    assert recipe_names() == tuple(SHIPPED)
    assert [one.name for one in all_recipes()] == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_names_steps_and_options_that_exist(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe.runtime in registry.names("mlopt.runners")
    for spec in recipe.steps:
        kind = registry.load("mlopt.steps", spec.name)
        options = {one.name.replace("_", "-") for one in fields(kind)}
        assert set(spec.options) <= options, (name, spec.name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_that_calibrates_says_that_it_needs_samples(name: str) -> None:
    recipe = find_recipe(name)
    kinds = [registry.load("mlopt.steps", spec.name) for spec in recipe.steps]
    required = any("calibration" in {one.name for one in fields(kind)} for kind in kinds)
    assert recipe.needs_samples == required


def test_options_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'summary = "s"\nprecision = "int8"\nneeds-isa = ["dotprod", "i8mm"]\n'
        '[[step]]\nname = "a"\n[[step]]\nname = "b"\ncount = 3\nratio = 0.5\non = true\nops = ["x"]\n'
    )
    recipe = find_recipe(str(file))
    assert recipe.name == "mine"
    assert recipe.needs_isa == ("dotprod", "i8mm")
    assert recipe.steps == (StepSpec("a", {}), StepSpec("b", {"count": 3, "ratio": 0.5, "on": True, "ops": ["x"]}))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('summary = "s"\nprecision = "int8"', "'step' is missing"),
        ('summary = "s"\nprecision = "int8"\nstep = []', "at least one [[step]]"),
        ('summary = "s"\nprecision = "int8"\n[[step]]\nnme = "x"', "'name' is missing"),
        ('summary = "s"\nprecision = "int8"\n[[step]]\nname = "x"\n[step.options]\na = 1', "neither a single value"),
        (
            'summary = "s"\nprecision = "int8"\nneed-samples = true\n[[step]]\nname = "x"',
            "Did you mean 'needs-samples'",
        ),
        ('summary = "s"\nprecision = "int8"\nneeds-isa = ["vnni"]\n[[step]]\nname = "x"', "Did you mean"),
        ('summary = "s"\n[[step]]\nname = "x"', "'precision' is missing"),
    ],
)
def test_a_recipe_with_a_slip_is_refused(text: str, what: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text + "\n")
    with pytest.raises(ConfigInvalid) as caught:
        find_recipe(str(file))
    assert what in caught.value.what
    assert caught.value.where.startswith(str(file))


def test_an_unknown_recipe_gets_a_suggestion() -> None:
    with pytest.raises(UnknownName, match="Did you mean int8-static"):
        find_recipe("int8-statc")


def test_int8_beside_bf16_says_so_to_all_that_observe_or_quantize() -> None:
    steps = {step.name: step.options for step in find_recipe("openvino-int8-bf16").steps}
    told = {name for name, options in steps.items() if options.get("beside-bf16")}
    assert told == {"equalize", "quantize-static"}
