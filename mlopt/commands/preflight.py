"""`mlopt preflight MODEL --target T`: whether TensorRT there will take the model, as far as this machine knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlopt.commands.options import model_argument, progress_for, reading, storing, talking

if TYPE_CHECKING:
    from mlopt.artifact import Artifact
    from mlopt.progress import Progress
    from mlopt.request import Request
    from mlopt.store import Store


@click.command(name="preflight")
@model_argument
@click.option("-t", "--target", required=True, metavar="NAME|FILE", help="A target with an NVIDIA GPU.")
@click.option("--jetpack", metavar="VERSION", help="The board's JetPack.  [the one to build for]")
@click.option("--precision", metavar="NAME", help="Also ask for this precision: fp16, int8, fp8, int4, fp4, …")
@reading
@storing
@talking
def command(
    model: Path,
    target: str,
    jetpack: str | None,
    precision: str | None,
    factory: str | None,
    trust: bool,
    project: Path | None,
    cache_dir: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Ask here whether TensorRT on the target will take MODEL: operators, types, precisions, shapes, memory.

    An ONNX file is read as it is; anything else is exported first. Nothing of it is run, and only the device has the
    last word. Ends with exit code 4 when something is refused for certain.
    """
    from mlopt.commands.table import echo_text
    from mlopt.preflight.preflight import preflight, stack_of
    from mlopt.project import find_project
    from mlopt.report.report import to_json
    from mlopt.request import Request
    from mlopt.store import Store, default_root
    from mlopt.target import find_target

    found = find_target(target)
    stack = stack_of(found, jetpack)
    _check_precision(precision)
    said = find_project(model, project)
    progress = progress_for(quiet=quiet, verbose=verbose)
    store = Store(cache_dir or default_root(), progress.on_step)
    request = Request(
        model=model, target=target, factory=factory, trust=trust, project=project, store=cache_dir, recipes=("fp32",)
    )
    onnx = _onnx(request, store, progress)
    asked = preflight(onnx, found, stack, store, inputs=said.inputs, precision=precision)
    if as_json:
        click.echo(json.dumps(to_json(asked)))
    else:
        for fact in asked.facts:
            echo_text(fact)
        for doubt in [finding for finding in asked.findings if not finding.certain]:
            echo_text(f"? {doubt.sentence}")
        if not asked.refused:
            echo_text("Nothing here refuses it. Only the device has the last word.")
    for finding in asked.refused[:-1]:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {finding.error}", err=True)
    if asked.refused:
        raise asked.refused[-1].error


def _onnx(request: Request, store: Store, progress: Progress) -> Artifact:
    """The model as ONNX: the file itself, or its export."""
    from mlopt.artifact import ONNX
    from mlopt.prepare import prepare
    from mlopt.source import open_model

    source = open_model(request.model, store=store, factory=request.factory, root=Path.cwd(), trust=request.trust)
    return source if source.format == ONNX else prepare(request, progress).exported


def _check_precision(name: str | None) -> None:
    from mlopt.errors import Misused
    from mlopt.tensorrt import facts

    if name is not None and name not in facts().precisions:
        raise Misused(f"--precision {name} is not known.", next=f"one of {', '.join(facts().precisions)}")
