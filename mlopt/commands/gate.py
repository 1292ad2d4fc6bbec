"""`mlopt gate CANDIDATE --baseline B`: pass, fail or inconclusive, for CI."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import click

from mlopt.commands.options import (
    OUTPUTS,
    history_option,
    outputs,
    progress_for,
    reading,
    said_after,
    sampling,
    storing,
    talking,
)


@click.command(name="gate")
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option(
    "-b",
    "--baseline",
    required=True,
    type=click.Path(path_type=Path),
    metavar="WHERE",
    help="Model, bundle, git:REV[:PATH], or what an earlier gate printed with --json.",
)
@click.option("-p", "--profile", default="ci-gate", metavar="NAME|FILE", help="Margins and budgets.  [ci-gate]")
@click.option("--runtime", metavar="NAME", help="Run both in it.  [a bundle's own, else onnxruntime]")
@click.option("--threads", type=click.IntRange(1), help="Threads of the runtime.")
@click.option("--batch", type=click.IntRange(1), help="Samples per query.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Bound of each of the two runs of the clocks.")
@sampling
@outputs(*OUTPUTS)
@reading
@storing
@history_option
@talking
def command(
    candidate: Path,
    baseline: Path,
    profile: str,
    runtime: str | None,
    threads: int | None,
    batch: int | None,
    seconds: float | None,
    samples: str | None,
    calibration: int | None,
    seed: int | None,
    junit: Path | None,
    markdown: Path | None,
    sarif: Path | None,
    benchmark_json: Path | None,
    bencher: Path | None,
    openmetrics: Path | None,
    csv: Path | None,
    factory: str | None,
    trust: bool,
    project: Path | None,
    cache_dir: Path | None,
    history: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Tell whether CANDIDATE is worse than the baseline: 0 when it is not, 1 when it is, 24 when nobody can tell.

    CANDIDATE is a bundle, an ONNX file or any model that mlopt can export. Two copies of each are measured in turned
    order until the margins of the profile are decided or the time is over; what fails is measured once more in
    fresh processes. With --samples that have labels the answers are compared one by one.
    """
    from mlopt.gate.gate import gate
    from mlopt.gate.outputs import write
    from mlopt.gate.result import GateResult
    from mlopt.gate.text import headline, to_terminal
    from mlopt.gate.walk import Asked
    from mlopt.history.keep import keep
    from mlopt.profile import find_profile
    from mlopt.report.report import to_json
    from mlopt.request import Request
    from mlopt.units import Seconds

    found = find_profile(profile)
    method = found.method.asked(threads=threads, batch=batch)
    margins = dataclasses.replace(found.gate, seconds=Seconds(seconds)) if seconds else found.gate
    request = Request(
        model=candidate,
        samples=samples,
        factory=factory,
        trust=trust,
        project=project,
        calibration=calibration,
        seed=seed,
        store=cache_dir,
    )
    asked = Asked(
        request,
        baseline,
        dataclasses.replace(found, method=method, gate=margins),
        runtime=runtime,
        seed=seed or 0,
    )
    result: GateResult = gate(asked, progress_for(quiet=quiet, verbose=verbose))
    if as_json:
        click.echo(json.dumps(to_json(result), indent=1))
    else:
        width = shutil.get_terminal_size((100, 24)).columns
        color = sys.stdout.isatty() and click.get_current_context().color is not False
        click.echo(to_terminal(result, width=width, color=color))
    files = {"junit": junit, "markdown": markdown, "sarif": sarif, "benchmark_json": benchmark_json}
    unwritten = write(result, {**files, "bencher": bencher, "openmetrics": openmetrics, "csv": csv})
    unkept = keep(to_json(result), given=history, model=candidate, project=project)
    with said_after([*unwritten, *unkept]):
        _end(result.verdict, headline(result))


def _end(verdict: str, headline: str) -> None:
    """The exit code is the verdict; the sentence stands on stdout already, so stderr only gets it as an error."""
    from mlopt.errors import BudgetMissed, GateUndecided

    said = headline.partition(": ")[2]
    if verdict == "fail":
        raise BudgetMissed(f"The candidate is worse than the gate allows: {said}.")
    if verdict == "inconclusive":
        raise GateUndecided(f"The gate cannot decide: {said}.")
