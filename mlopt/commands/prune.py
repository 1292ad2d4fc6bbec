"""`mlopt prune MODEL --max-drop 1%`: as many channels fewer as the budget of accuracy lets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlopt.commands.options import max_drop_option, model_argument, progress_for, reading, sampling, storing, talking

if TYPE_CHECKING:
    from mlopt.pruning import Pruning
    from mlopt.shares import Trial


@click.command(name="prune")
@model_argument
@click.option("--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Of the work, to remove.")
@max_drop_option
@click.option(
    "-r", "--recipe", "recipes", multiple=True, metavar="NAME|FILE", help="Follow it after pruning (repeatable)."
)
@click.option("--finetune", metavar="WHERE", help="Samples to train on with torch, as --samples are given.")
@click.option("--epochs", type=click.IntRange(1), default=20, help="Passes over them.  [20]")
@click.option("-t", "--target", default="host", metavar="NAME|FILE", help="Its kernels decide the widths.  [host]")
@click.option("-p", "--profile", metavar="NAME|FILE", help="Budget of accuracy without --max-drop.  [balanced]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder, or FILE.onnx.  [MODEL-pruned]")
@reading
@sampling
@storing
@talking
@click.pass_context
def command(
    context: click.Context, /, model: Path, share: float | None, max_drop: float | None, recipes: tuple[str, ...],
    finetune: str | None, epochs: int, out: Path | None, cache_dir: Path | None, as_json: bool, quiet: bool,
    verbose: bool, **asked: object,
) -> None:  # fmt: skip
    """Write MODEL with fewer channels, the layers fitted anew on calibration samples, and say what that costs.

    Without --share: the largest share of the multiply-accumulates with which the drop of top-1 is proven to be inside
    the budget, on samples that took no part in pruning. With recipes, int8 for instance, every share is made by each
    of them, the whole model too, and what is written is the fastest of all that keep the budget.

    \b
      mlopt prune model.onnx --samples images/ --max-drop 1%
      mlopt prune model.onnx --samples images/ --max-drop 1% -r int8-repaired -r openvino-int8
      mlopt prune model.onnx --samples images/ --share 0.3 --target rpi5
    """
    from mlopt.commands.export import write
    from mlopt.pruning import Tuning, prune_model
    from mlopt.request import Request

    request = Request(model=model, store=cache_dir, max_drop=max_drop, recipes=recipes, **asked)  # type: ignore[arg-type]
    tuning = Tuning(finetune, epochs) if finetune else None
    found = prune_model(request, progress_for(quiet=quiet, verbose=verbose), share=share, tuning=tuning)
    written = write(
        found.chosen.artifact, out or Path(f"{found.prepared.name}-pruned"), source=model, replace=out is None
    )
    if as_json:
        click.echo(json.dumps(_as_json(found, written)))
    else:
        _print(found, written)
    _raise_for(found)


def _print(found: Pruning, written: Path) -> None:
    from mlopt.commands.table import echo_table

    one = found.chosen
    click.echo(f"{written}  {one.gone:.1%} of the multiply-accumulates gone, {_drop(one)}")
    click.echo(f"{one.recipe}, for {one.runtime}, speed {_speed(one)}\n")
    sizes = [("multiply-accumulates", one.before.work, one.after.work)]
    sizes.append(("weights", one.before.parameters, one.after.parameters))
    echo_table(
        ("", "before", "after", ""),
        [(name, f"{before:,}", f"{after:,}", f"{after / before:.1%}") for name, before, after in sizes],
    )
    click.echo()
    echo_table(
        ("layer", "channels", "kept", "stays whole because of"),
        [(layer.name, str(layer.before), str(layer.after), layer.stays) for layer in one.layers],
    )
    if len(found.trials) > 1:
        click.echo()
        echo_table(
            ("tried", "gone", "by", "speed", ""),
            [(f"{t.share:.0%}", f"{t.gone:.1%}", t.recipe, _speed(t), _drop(t)) for t in found.trials],
        )


def _speed(trial: Trial) -> str:
    from mlopt.report import text

    return text.times(trial.speedup) if trial.speedup else "not timed"


def _drop(trial: Trial) -> str:
    from mlopt.report import text
    from mlopt.units import format_percent

    accuracy = trial.accuracy
    if accuracy.drop is not None:
        return f"drop of top-1 {text.points(accuracy.drop)} on {accuracy.samples} samples"
    if accuracy.agreement is not None:
        return f"{format_percent(accuracy.agreement.value)} of answers as before on {accuracy.samples} samples"
    return f"SQNR {accuracy.sqnr:.1f} dB on {accuracy.samples} samples"


def _as_json(found: Pruning, written: Path) -> dict[str, object]:
    from mlopt.report.report import to_json

    one = found.chosen
    return {
        "path": str(written),
        "digest": one.artifact.digest,
        "share": one.share,
        "recipe": one.recipe,
        "runtime": one.runtime,
        "speedup": to_json(one.speedup) if one.speedup else None,
        "gone": one.gone,
        "before": to_json(one.before),
        "after": to_json(one.after),
        "accuracy": to_json(one.accuracy),
        "layers": to_json(one.layers),
        "tried": [
            {
                "share": t.share,
                "gone": t.gone,
                "recipe": t.recipe,
                "runtime": t.runtime,
                "accuracy": to_json(t.accuracy),
                "speedup": to_json(t.speedup) if t.speedup else None,
            }
            for t in found.trials
        ],
        "dropped": dict(found.dropped),
    }


def _raise_for(found: Pruning) -> None:
    """A share that was named is written whatever it costs; the exit code says that it is over the budget."""
    from mlopt.errors import BudgetMissed
    from mlopt.units import format_points

    if found.max_drop is None or found.chosen.keeps(found.max_drop):
        return
    raise BudgetMissed(
        f"A drop of at most {format_points(found.max_drop)} is not proven: {_drop(found.chosen)}.",
        next="leave --share out, and the largest that keeps the budget is found; or give more samples",
    )
