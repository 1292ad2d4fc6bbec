"""`mlopt quantize MODEL --recipe R`: one recipe's variant of a model, judged like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mlopt.commands.options import max_drop_option, model_argument, progress_for, reading, sampling, storing, talking
from mlopt.errors import BudgetMissed


@click.command(name="quantize")
@model_argument
@click.option(
    "-r",
    "--recipe",
    metavar="NAME|FILE",
    help="Which kind.  [int8-static; with --max-drop int8-mixed, which keeps to it]",
)
@max_drop_option
@click.option("-t", "--target", default="host", metavar="NAME|FILE", help="Its CPU decides the scheme.  [host]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where the bundle goes.  [out]")
@reading
@sampling
@storing
@talking
@click.pass_context
def command(
    context: click.Context, /, model: Path, recipe: str | None, cache_dir: Path | None, as_json: bool, quiet: bool,
    verbose: bool, **asked: object,
) -> None:  # fmt: skip
    """Make RECIPE's variant of MODEL and say how it answers and how fast it is; no image.

    What `mlopt compile --recipe R --ship R --no-image --no-inside` does: the verdict is printed, and the
    variant is written whatever it says. With --max-drop the nodes that need it stay in floating point, and are named.
    """
    from mlopt.commands.compile import print_bundle
    from mlopt.compiler import compile_model
    from mlopt.request import Request

    recipe = recipe or ("int8-mixed" if asked["max_drop"] is not None else "int8-static")
    request = Request(
        model=model,
        recipes=(recipe,),
        ship=Path(recipe).stem if recipe.endswith(".toml") else recipe,
        image=False,
        inside=False,
        store=cache_dir,
        command=("mlopt", *sys.argv[1:]),
        **asked,  # type: ignore[arg-type]
    )
    bundle = compile_model(request, progress_for(quiet=quiet, verbose=verbose))
    if as_json:
        click.echo(json.dumps(bundle.report))
    else:
        print_bundle(bundle, color=context.color is not False and sys.stdout.isatty())
    if request.max_drop is not None and bundle.missed:
        raise BudgetMissed(
            f"{recipe} is written, and it misses a budget: {'; '.join(bundle.missed)}.",
            next="allow more with --max-drop, or give more samples",
        )
