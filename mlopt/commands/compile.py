"""`mlopt compile MODEL --target T`: the whole walk."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlopt.commands.options import (
    budgets_asked,
    history_option,
    model_argument,
    outputs,
    progress_for,
    reading,
    said_after,
    sampling,
    storing,
    talking,
)
from mlopt.errors import BudgetInfeasible, BudgetMissed, ImageFailed, MloptError
from mlopt.request import Request

if TYPE_CHECKING:
    from mlopt.bundle import Bundle
    from mlopt.prepare import Prepared
    from mlopt.step import Step

_INDENT: Final = " " * 4


@click.command(name="compile")
@model_argument
@click.option("-t", "--target", "targets", multiple=True, metavar="NAME|FILE", help="Machine to build for. [host]")
@click.option("-p", "--profile", metavar="NAME|FILE", help="Budgets to keep.  [default: balanced]")
@click.option("-r", "--recipe", "recipes", multiple=True, metavar="NAME|FILE", help="Try these only (repeatable).")
@click.option("--ship", metavar="NAME", help="Ship this candidate, whatever the judge says of it.")
@budgets_asked
@click.option("--threads", type=click.IntRange(1), help="Threads of the runtime while measuring.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Where bundles go.  [default: out]")
@click.option("--dry-run", is_flag=True, help="Print the plan, and every recipe left out with the reason.")
@click.option("--image/--no-image", default=True, help="Assemble the OCI image, or not.")
@click.option("--inside/--no-inside", default=True, help="Layers and roofline in the report, or not.")
@click.option("--base", metavar="REF|FOLDER", help="Put the image on this one: HOST/NAME:TAG, or an OCI layout.")
@click.option("--compression", type=click.Choice(["gzip", "zstd"]), help="Of the image's layers.  [default: gzip]")
@click.option("--server", type=click.Choice(["python", "native"]), help="What serves in the image.  [default: python]")
@click.option("--device", metavar="USER@HOST[:PORT]", help="Build its engines there, over ssh, and measure them.")
@click.option("--debian-mirror", envvar="MLOPT_DEBIAN_MIRROR", metavar="URL", help="Instead of apt's own sources.")
@reading
@sampling
@storing
@history_option
@outputs("junit", "sarif", "openmetrics")
@talking
@click.pass_context
def command(
    context: click.Context,
    /,
    model: Path,
    targets: tuple[str, ...],
    dry_run: bool,
    cache_dir: Path | None,
    history: Path | None,
    junit: Path | None,
    sarif: Path | None,
    openmetrics: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **asked: object,
) -> None:
    """Take MODEL to a measured, judged image.

    Exports to ONNX, makes the candidates that are legal on the target, checks and measures them side by
    side, and ships the best one that is inside every budget of the profile; the baseline if none is. What is
    no faster than a candidate that is too slow already is not made, unless --recipe names it.

    \b
      mlopt compile model.onnx --target host --samples images/
      mlopt compile weights.pth --factory nets:resnet20 --target rpi5 --max-drop 0.5%
      mlopt compile model.onnx --target jetson --samples images/ --device nano@192.168.1.20
      mlopt compile model.onnx --target host --samples images/ --max-size 2MB --max-latency 5ms
      mlopt compile model.keras --target host --dry-run
    """
    from mlopt.ci.results import suite_of_report, write
    from mlopt.compiler import compile_model
    from mlopt.history.keep import keep
    from mlopt.prepare import prepare
    from mlopt.project import find_project

    progress = progress_for(quiet=quiet, verbose=verbose)
    base = Request(
        model=model,
        store=cache_dir,
        command=("mlopt", *sys.argv[1:]),
        **asked,  # type: ignore[arg-type]
    )
    bundles: list[Bundle] = []
    problems: list[MloptError] = []
    for target in targets or find_project(model, base.project).compile.targets or ("host",):
        request = dataclasses.replace(base, target=target)
        if dry_run:
            _print_plan(prepare(request, progress), as_json=as_json)
            continue
        bundles.append(compile_model(request, progress))
        if as_json:
            click.echo(json.dumps(bundles[-1].report))
        else:
            print_bundle(bundles[-1], color=context.color is not False and sys.stdout.isatty())
        problems += keep(bundles[-1].report, given=history, model=model, project=base.project)
    if bundles:
        files = {"junit": junit, "sarif": sarif, "openmetrics": openmetrics}
        suites = [suite_of_report(bundle.findings) for bundle in bundles if bundle.findings]
        problems += write(files, suites, [bundle.report for bundle in bundles])
    with said_after(problems):
        _raise_for(bundles, image=base.image)


def _raise_for(bundles: list[Bundle], *, image: bool) -> None:
    """The exit code that what was written deserves; the bundles are there all the same."""
    from mlopt.verdicts import keepers, nearest, out_of_reach

    impossible: list[str] = []
    missed: list[str] = []
    near: list[str] = []
    for bundle in bundles:
        assert bundle.findings
        verdicts = {one.name: one.verdicts for one in bundle.findings.candidates}
        impossible += out_of_reach(verdicts)
        near += [f"{said}; or " for said in [nearest(verdicts)] if said]
        if bundle.missed and (others := keepers(verdicts)):
            near.append(f"--ship {others[0]} keeps all that could be judged; or ")
        missed += bundle.missed
    if impossible:
        raise BudgetInfeasible(
            f"No candidate of this model keeps what was asked: {'; '.join(impossible)}.",
            next=f"{''.join(near)}choose another profile (mlopt profiles list) or a smaller model; the bundle is "
            "written all the same",
        )
    if missed:
        raise BudgetMissed(
            f"What ships misses {len(missed)} budget{'s' if len(missed) > 1 else ''}: {'; '.join(missed)}.",
            next=f"{''.join(near)}choose another profile (mlopt profiles list), give more samples, or another model",
        )
    if without := [str(bundle.path) for bundle in bundles if image and bundle.image is None]:
        raise ImageFailed(
            "The bundle is written, and without the image that was asked for; the reason is above and in its report.",
            where=", ".join(without),
            next="mend that and compile again (no step is done twice), or say --no-image",
        )


def print_bundle(bundle: Bundle, *, color: bool) -> None:
    from mlopt.report.terminal import to_terminal

    assert bundle.findings
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(to_terminal(bundle.findings, width=width, color=color))
    click.echo(f"\nbundle  {bundle.path}")
    click.echo(f"report  {bundle.path / 'report.html'}")
    if bundle.image:
        click.echo(f"image   {bundle.image}    try it: mlopt serve {bundle.path}")
    else:
        reason = bundle.findings.image_left_out.partition("\n")[0]
        click.echo(textwrap.fill(f"image   none: {reason}", width, subsequent_indent=" " * 8, break_long_words=False))


def _print_plan(prepared: Prepared, *, as_json: bool) -> None:
    from mlopt.needless import waves
    from mlopt.step import options_of

    plan = prepared.plan
    _, *later = waves(plan, prepared.profile, on_this_machine=prepared.on_this_machine)
    late = {one.name for wave in later for one in wave}
    if as_json:
        facts = {
            "model": prepared.name,
            "target": prepared.target.name,
            "profile": prepared.profile.name,
            "candidates": [
                {
                    "name": candidate.name,
                    "precision": candidate.precision,
                    "runtime": candidate.runtime,
                    "waits_for": candidate.no_faster_than if candidate.name in late else None,
                    "steps": [{"step": step.name, "options": options_of(step)} for step in candidate.steps],
                }
                for candidate in plan.candidates
            ],
            "left_out": [{"recipe": left.recipe, "reason": left.reason} for left in plan.left_out],
        }
        click.echo(json.dumps(facts, indent=1))
        return
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(f"{prepared.name} for {prepared.target.name} with profile {prepared.profile.name}: nothing was built.\n")
    for candidate in plan.candidates:
        steps = " → ".join(_spelled(step) for step in candidate.steps) or "as exported"
        waits = f"  if {candidate.no_faster_than} is fast enough to win" if candidate.name in late else ""
        click.echo(f"  {candidate.name:<24} {candidate.precision:<6} {candidate.runtime:<12}{waits}".rstrip())
        click.echo(textwrap.fill(steps, width, initial_indent=_INDENT, subsequent_indent=_INDENT + "  "))
    if plan.left_out:
        click.echo("\nleft out:")
    for left in plan.left_out:
        row = f"  {left.recipe:<24} {left.reason}"
        click.echo(
            textwrap.fill(row, width, subsequent_indent=" " * 27, break_long_words=False, break_on_hyphens=False)
        )


def _spelled(step: Step) -> str:
    from mlopt.step import options_of

    # Limits decide whether there is a result, never which: they are any.
    shown = {key: value for key, value in options_of(step).items() if value not in (None, [], "", "sha256:any")}
    inner = ", ".join(f"{key.replace('_', '-')}={_short(value)}" for key, value in shown.items())
    return f"{step.name}({inner})" if inner else step.name


def _short(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:15] + "…" if text.startswith("sha256:") else text
