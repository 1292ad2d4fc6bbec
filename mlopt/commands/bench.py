"""`mlopt bench MODEL…`: models side by side, interleaved, the first one the baseline."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlopt.commands.limiting import limiting, limits_for
from mlopt.commands.options import history_option, limit, outputs, progress_for, said_after, talking

if TYPE_CHECKING:
    from mlopt.profile import Scenario
    from mlopt.units import Bytes

SCENARIOS = ("single-stream", "multi-stream", "server", "offline")
_VERBS = ("compare", "history")  # what people try after bench


@click.command(name="bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-t", "--target", default="host", metavar="NAME|FILE", help="Must be this machine.  [host]")
@click.option("-p", "--profile", metavar="NAME|FILE", help="How to measure.  [balanced]")
@click.option(
    "--runtime", "runtimes", multiple=True, metavar="NAME", help="Run MODELS in it; may be repeated.  [onnxruntime]"
)
@click.option("--scenario", type=click.Choice(SCENARIOS), help="MLPerf's, how queries come.  [as the profile says]")
@limit("--latency-bound", "15ms", "Seconds", "What the server must keep.  [latency-p99 of the profile]")
@click.option("--threads", type=click.IntRange(1), multiple=True, help="Threads of the runtime; may be repeated.")
@click.option("--batch", "batches", type=click.IntRange(1), multiple=True, help="Samples per query; may be repeated.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Tell the memory of so many processes together.")
@click.option("--layers", is_flag=True, help="Also where the time of a query goes, and memory over time.")
@click.option("--loadgen", is_flag=True, help="Run each under MLPerf's own load generator too (extra [loadgen]).")
@limiting
@history_option
@outputs("junit", "sarif", "openmetrics")
@talking
def command(
    models: tuple[Path, ...],
    target: str,
    profile: str | None,
    runtimes: tuple[str, ...],
    scenario: Scenario | None,
    latency_bound: float | None,
    threads: tuple[int, ...],
    batches: tuple[int, ...],
    workers: int,
    layers: bool,
    loadgen: bool,
    limits_of: str | None,
    limit_cores: int | None,
    limit_memory: Bytes | None,
    history: Path | None,
    junit: Path | None,
    sarif: Path | None,
    openmetrics: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure MODELS (ONNX files or bundles) side by side; speed-ups are against the first.

    In the scenario server queries arrive by chance (Poisson), and the highest rate is sought at which 99 of 100 keep
    the bound on latency, waiting included; multi-stream asks 8 samples at once.

    A bundle's model runs in the runtime that it was compiled for, unless --runtime names another; without --runtime a
    machine with an NVIDIA GPU measures every model in onnxruntime-cuda too, against that. With several runtimes each
    model runs in each, and so it is with several --threads and --batch; speed-ups are per sample.

    Every model is loaded in a process of its own and visited in every round, in turned order, so that
    what disturbs the machine disturbs all of them. So is a second copy of the first, which shows how small a difference
    can be told here.

    --limits-of TARGET gives each process the cores, the memory and the instructions of another machine where this one
    can; the clocks stay those of this one.
    """
    from mlopt.ci.results import suites_of_bench, write
    from mlopt.history.keep import keep
    from mlopt.host import detect
    from mlopt.measure.bench import bench
    from mlopt.measure.text import to_terminal
    from mlopt.profile import DEFAULT, find_profile
    from mlopt.report.report import to_json
    from mlopt.target import find_target, is_this_machine

    if str(models[0]) in _VERBS and not models[0].exists():
        from mlopt.errors import Misused

        raise Misused(f"bench measures models, and {models[0]} is a verb of its own.", next=f"mlopt {models[0]} --help")
    machine = detect()
    asked = find_target(target)
    if not is_this_machine(asked, machine):
        from mlopt.errors import Misused

        raise Misused(
            f"{asked.name} is not this machine, so nothing can be measured for it here.",
            next=f"run mlopt bench on the device, or see what fits into what it has: --limits-of {target}",
        )
    named = find_profile(profile or DEFAULT)
    method = named.method.asked(scenario=scenario)
    bound = latency_bound or named.budgets.latency_p99
    limits = limits_for(limits_of, limit_cores, limit_memory, machine)
    began = time.monotonic()
    progress = progress_for(quiet=quiet, verbose=verbose)
    several = len(models) * math.prod(max(1, len(each)) for each in (runtimes, threads, batches))
    with progress.phase("measure", f"{several} side by side"):
        within = "".join(f", {one.limit} limited to {one.asked}" for one in limits[1] if one.applied)
        device = f"{machine.cpu}, {machine.cores} cores{within}"
        found = bench(
            models,
            method=method,
            device=device,
            runtimes=runtimes,
            gpu=machine.gpu is not None,
            threads=threads,
            batches=batches,
            bound=bound,
            limits=limits,
            layers=layers,
            loadgen=loadgen,
            workers=workers,
        )
    plain = to_json(found)
    width = shutil.get_terminal_size((100, 24)).columns
    click.echo(json.dumps(plain) if as_json else to_terminal(found, width=width))
    suites = suites_of_bench(found, named, time.monotonic() - began)
    problems = write({"junit": junit, "sarif": sarif, "openmetrics": openmetrics}, suites, [plain])
    with said_after([*problems, *keep(plain, given=history, model=models[0])]):
        return
