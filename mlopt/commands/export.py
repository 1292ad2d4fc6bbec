"""`mlopt export MODEL`: to ONNX, checked against the source, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlopt.commands.options import model_argument, progress_for, reading, storing, talking

if TYPE_CHECKING:
    from mlopt.artifact import Artifact


@click.command(name="export")
@model_argument
@click.option("-t", "--target", default="host", metavar="NAME|FILE", help="Its runtime decides the opset.  [host]")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder, or FILE.onnx.  [MODEL-onnx]")
@reading
@storing
@talking
def command(
    model: Path,
    target: str,
    out: Path | None,
    factory: str | None,
    trust: bool,
    project: Path | None,
    cache_dir: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Convert MODEL to ONNX with a dynamic batch dimension, and check it against its source framework."""
    from mlopt.prepare import prepare
    from mlopt.report import text
    from mlopt.report.report import to_json
    from mlopt.request import Request

    request = Request(
        model=model, target=target, factory=factory, trust=trust, project=project, store=cache_dir, recipes=("fp32",)
    )
    prepared = prepare(request, progress_for(quiet=quiet, verbose=verbose))
    written = write(prepared.exported, out or Path(f"{prepared.name}-onnx"), source=model, replace=out is None)
    if as_json:
        facts = {"path": str(written), "digest": prepared.exported.digest, "parity": to_json(prepared.parity)}
        click.echo(json.dumps({**facts, "signature": to_json(prepared.signature)}))
        return
    click.echo(f"{written}  opset {prepared.signature.opset}")
    for one in prepared.parity:
        click.echo(
            f"  {one.output}: max |difference| {text.difference(one.max_absolute)}, "
            f"relative {text.difference(one.max_relative)} from {one.source} at batch {one.batch}"
        )


def write(exported: Artifact, out: Path, *, source: Path, replace: bool) -> Path:
    """Each file of the export in its place, whole or not at all; other files in the folder are left alone.

    A different model.onnx in a folder that the person named may be anybody's: it is replaced only when named itself.
    """
    from mlopt.artifact import digest_of, files
    from mlopt.bundle import writing
    from mlopt.errors import Misused

    parts = files(exported.path)
    single = out.suffix == ".onnx" and not out.is_dir()
    if single and len(parts) > 1:
        raise Misused("The model keeps its weights in files of their own.", next="give --out a folder")
    homes = {part: out if single else out / part.relative_to(exported.path) for part in parts}
    for part, home in homes.items():
        if home.exists() and source.exists() and home.samefile(source):
            raise Misused(
                "The export would take the place of its own source.", where=str(home), next="give another --out"
            )
        if home.exists() and not (single or replace) and digest_of(home) != digest_of(part):
            raise Misused(
                f"The folder holds another {home.name} already.",
                where=str(home),
                next="--out FILE.onnx replaces a file",
            )
    with writing(out):
        for part, home in homes.items():
            home.parent.mkdir(parents=True, exist_ok=True)
            scratch = home.with_name(f".{home.name}.{os.getpid()}")
            try:
                shutil.copyfile(part, scratch)
                os.replace(scratch, home)
            finally:
                scratch.unlink(missing_ok=True)
    return homes[exported.main]
