"""`mlopt parity MODEL --on …`: whether a model answers the same on other instruction sets than this processor's."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlopt.commands.options import progress_for, sampling, storing, talking

if TYPE_CHECKING:
    from mlopt.emulate.compare import Answers

_COUNT = 64
_LIMIT = "0.2%"


@click.command(name="parity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--on", "names", metavar="SET,…", help="Instruction sets.  [all that can be run here]")
@click.option("--count", type=click.IntRange(1), default=_COUNT, show_default=True, help="Samples: emulation is slow.")
@click.option(
    "--limit", default=_LIMIT, show_default=True, help="How far top-1 may be apart; without classes, outputs."
)
@click.option("--runtime", metavar="NAME", help="Runs MODEL.  [a bundle's own, else onnxruntime]")
@click.option("--qemu", is_flag=True, help="In qemu-user also what this processor could do itself.")
@sampling
@storing
@talking
def command(
    model: Path, names: str | None, count: int, limit: str, runtime: str | None, qemu: bool, samples: str | None,
    calibration: int | None, seed: int | None, cache_dir: Path | None, as_json: bool, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Run MODEL (an ONNX file or a bundle) on other instruction sets and compare its answers with this processor's.

    Sets of x86 are this processor with the rest hidden, where its kernel lets CPUID fault; Arm is qemu-user with the
    files of mlopt's own image. --samples are those that the model was evaluated on; without them inputs are generated.
    Exit code 1 when answers are proven to be further apart than --limit.
    """
    from mlopt.emulate.compare import on_each
    from mlopt.emulate.sets import find_sets, possible_sets
    from mlopt.errors import BudgetMissed, MissingDependency
    from mlopt.image.fetch import inputs_from_environment
    from mlopt.measure.subjects import model_file, own_runtime
    from mlopt.prepare import evaluation_samples
    from mlopt.request import Request
    from mlopt.units import Fraction, parse

    file, progress = model_file(model), progress_for(quiet=quiet, verbose=verbose)
    wanted = find_sets(name.strip() for name in names.split(",")) if names else possible_sets(qemu=qemu)
    if not wanted:
        raise MissingDependency(
            "No other instruction set can be run here: this processor's cannot be hidden (no cpuid_fault), and there "
            "is no qemu-user that is new enough.",
            next="apt install qemu-user (10 or newer: Debian 13), or run this on x86 with Linux on the bare machine; "
            "--on SET says what one of them needs",
        )
    asked = Request(model=model, samples=samples, calibration=calibration, seed=seed)
    given, labels = evaluation_samples(asked, file, count)
    found = []
    with progress.phase("compare", f"{len(wanted)} instruction sets"):
        for answers in on_each(
            file,
            wanted,
            given,
            runtime=runtime or own_runtime(model),
            count=count,
            limit=parse(Fraction, limit),
            labels=labels,
            generated=samples is None,
            inputs=inputs_from_environment(root=cache_dir),
            qemu=qemu,
        ):
            found.append(answers)
            progress.say(f"{answers.instructions}: {answers.outcome}")
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))
    else:
        _print(found)
    if apart := [one.instructions for one in found if one.outcome == "apart"]:
        classes = found[0].accuracy.agreement is not None
        raise BudgetMissed(
            f"The answers are more than {limit} {'' if classes else 'of the largest output '}apart on "
            f"{', '.join(apart)}.",
            where=str(model),
            next='quantize it again: the scheme "auto" keeps sums of products inside 16 bits',
        )


def _print(found: list[Answers]) -> None:
    from mlopt.report import text

    width = max((len(one.instructions) for one in found), default=3)
    click.echo(f"{'on':<{width}}  {'top-1':>7}  {'apart':>22}  {'same class':>10}  {'largest':>8}  {'':<8}  how")
    for one in found:
        accuracy = one.accuracy
        same = text.percent(accuracy.agreement.value) if accuracy.agreement else "-"
        click.echo(
            f"{one.instructions:<{width}}  {text.percent(accuracy.top1):>7}  {text.points(accuracy.drop):>22}  "
            f"{same:>10}  {one.largest:>8.1e}  {one.outcome:<8}  {one.way}"
        )
    if found:
        first = found[0].accuracy
        click.echo(
            f"emulated; {first.samples} {'generated inputs' if first.generated else 'samples'}; against this processor "
            f"as it is ({text.percent(first.baseline_top1)})"
        )
