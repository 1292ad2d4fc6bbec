"""`mlopt recipes`: the kinds of variant that can be made, their steps, and what they need."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import click

from mlopt.commands.table import echo_facts, echo_json, echo_table, echo_text

if TYPE_CHECKING:
    from mlopt.recipe import Recipe, StepSpec


@click.group(name="recipes", invoke_without_command=True)
@click.pass_context
def command(context: click.Context) -> None:
    """The kinds of variant that can be made of a model: steps and their options.

    One of your own is a .toml file: give --recipe ./mine.toml, or put it into ~/.config/mlopt/optimize.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_recipes)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_recipes(as_json: bool = False) -> None:
    """All recipes."""
    from mlopt.recipe import all_recipes

    recipes = all_recipes()
    if as_json:
        echo_json(recipes)
        return
    rows = [(one.name, one.precision, "yes" if one.needs_samples else "no", one.summary) for one in recipes]
    echo_table(("RECIPE", "PRECISION", "SAMPLES", "WHAT IT MAKES"), rows)
    click.echo()
    echo_text("SAMPLES says whether it needs --samples. More about one: mlopt recipes show NAME")


@command.command("show")
@click.argument("name", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def show(name: str, as_json: bool) -> None:
    """One recipe: what it needs, and its steps with every option."""
    from mlopt import paths
    from mlopt.recipe import find_recipe

    recipe = find_recipe(name)
    if as_json:
        echo_json(recipe)
        return
    file = name if paths.is_path(name) else str(paths.declarations("optimize")[recipe.name])
    echo_text(f"{recipe.name}: {recipe.summary}", bold=True)
    facts = [("file", file), ("precision", recipe.precision), ("runtime", recipe.runtime), ("needs", _needs(recipe))]
    echo_facts(facts, indent=2)
    for number, spec in enumerate(recipe.steps, start=1):
        click.secho(f"\nstep {number}: {spec.name}", bold=True)
        echo_facts(_step(spec), indent=2)


def _needs(recipe: Recipe) -> str:
    needs = ["samples to calibrate on"] if recipe.needs_samples else []
    needs += [f"a model with {' or '.join(recipe.needs_ops)}"] if recipe.needs_ops else []
    needs += [f"a CPU with {' or '.join(recipe.needs_isa)}"] if recipe.needs_isa else []
    needs += [f"ONNX opset {recipe.min_opset} or newer"] if recipe.min_opset else []
    needs += ["to be asked for with --recipe, because it takes long"] if recipe.on_request else []
    return ", ".join(needs) or "nothing"


def _step(spec: StepSpec) -> list[tuple[str, str]]:
    """The step's own sentence, and its options: those of the recipe, and the defaults of the others.

    Raises `UnknownName` for a step that is not registered, with near names.
    """
    from mlopt import registry

    kind = registry.load("mlopt.steps", spec.name)
    facts = [("does", " ".join((kind.__doc__ or "").split("\n\n")[0].split()))]
    given = {key.replace("-", "_"): value for key, value in spec.options.items()}
    for one in fields(kind):
        key = one.name.replace("_", "-")
        if one.name in given:
            facts.append((key, _spelled(given.pop(one.name))))
        elif one.default is not MISSING and one.default is not None:
            facts.append((key, f"{_spelled(one.default)} (default)"))
    facts += [
        (key.replace("_", "-"), f"{_spelled(value)} (the step has no such option)") for key, value in given.items()
    ]
    return facts


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "all"
    return str(value)
