"""`mlopt quantize MODEL --recipe R`: one recipe's variant of a model, judged like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from mlopt.commands.options import model_argument, progress_for, reading, sampling, storing, talking


@click.command(name="quantize")
@model_argument
@click.option("-r", "--recipe", default="int8-static", metavar="NAME|FILE", help="Which kind.  [int8-static]")
@click.option("-t", "--target", default="host", metavar="NAME|FILE", help="Its CPU decides the scheme.  [host]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where the bundle goes.  [out]")
@reading
@sampling
@storing
@talking
@click.pass_context
def command(
    context: click.Context, /, model: Path, recipe: str, cache_dir: Path | None, as_json: bool, quiet: bool,
    verbose: bool, **asked: object,
) -> None:  # fmt: skip
    """Make RECIPE's variant of MODEL and say how it answers and how fast it is; no image.

    What `mlopt compile --recipe R --ship R --no-image` does: the verdict is printed, and the variant is
    written whatever it says.
    """
    from mlopt.commands.compile import print_bundle
    from mlopt.compiler import compile_model
    from mlopt.request import Request

    request = Request(
        model=model,
        recipes=(recipe,),
        ship=Path(recipe).stem if recipe.endswith(".toml") else recipe,
        image=False,
        store=cache_dir,
        command=("mlopt", *sys.argv[1:]),
        **asked,  # type: ignore[arg-type]
    )
    bundle = compile_model(request, progress_for(quiet=quiet, verbose=verbose))
    if as_json:
        click.echo(json.dumps(bundle.report))
    else:
        print_bundle(bundle, color=context.color is not False and sys.stdout.isatty())
