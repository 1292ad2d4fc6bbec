"""Options that several verbs share, so that they look and mean the same everywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from mlopt.errors import Misused, MloptError
from mlopt.progress import Progress

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def model_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("model", type=click.Path(path_type=Path))(command)


def reading(command: Callable[..., Any]) -> Callable[..., Any]:
    """How a model is read: --factory, --trust, --project."""
    for option in (
        click.option("--project", type=click.Path(path_type=Path), help="mlopt.toml to use. [beside MODEL]"),
        click.option("--trust", is_flag=True, help="Run code that is inside MODEL (pickles, TorchScript)."),
        click.option("--factory", metavar="PKG.MOD:CALLABLE", help="Builds the module that MODEL's weights go into."),
    ):
        command = option(command)
    return command


def max_drop_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--max-drop, as a fraction."""
    option = limit("--max-drop", "0.5%", "Fraction", "Top-1 that may be lost, proven at 95 % confidence.")
    return option(command)


def budgets_asked(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the winner must keep, whatever the profile says: a fraction, seconds, bytes."""
    for option in (
        limit("--max-image-size", "150MB", "Bytes", "Of the image, unpacked."),
        limit("--max-size", "2MB", "Bytes", "Of the model's file."),
        limit("--max-memory", "200MB", "Bytes", "Of the process that runs it, at its peak."),
        limit("--max-latency", "5ms", "Seconds", "Of one query: the median, proven at 95 % confidence."),
        max_drop_option,
    ):
        command = option(command)
    return command


def sampling(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is evaluated on: --samples, --calibration, --seed."""
    for option in (
        click.option("--seed", type=int, help="Seed of the split into calibration and evaluation.  [default: 0]"),
        click.option("--calibration", type=click.IntRange(1), metavar="N", help="Samples to calibrate on."),
        click.option(
            "--samples",
            metavar="WHERE",
            help="Folder with labels.csv, folder of class folders, .npz, or pkg.mod:callable.",
        ),
    ):
        command = option(command)
    return command


def storing(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--cache-dir", type=click.Path(path_type=Path), envvar="MLOPT_CACHE_DIR", help="The store of results."
    )(command)


def history_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which file results are recorded in, or read from."""
    return click.option(
        "--history",
        type=click.Path(path_type=Path),
        envvar="MLOPT_HISTORY",
        metavar="FILE",
        help="The history: SQLite, made if there is none.  [as mlopt.toml says]",
    )(command)


def talking(command: Callable[..., Any]) -> Callable[..., Any]:
    """How much is printed, and for whom: --json, -q, -v, --no-color. Gives the command a `progress`."""
    for option in (
        click.option("--no-color", is_flag=True, expose_value=False, callback=_no_color, help="Plain text."),
        click.option("-v", "--verbose", is_flag=True, help="Also what was reused, and details."),
        click.option("-q", "--quiet", is_flag=True, help="Errors and the result only."),
        click.option("--json", "as_json", is_flag=True, help="The result as JSON on stdout."),
    ):
        command = option(command)
    return command


def progress_for(*, quiet: bool, verbose: bool) -> Progress:
    return Progress(quiet=quiet, verbose=verbose)


OUTPUTS: Final = {
    "junit": "Write JUnit XML: one test case for each check.",
    "markdown": "Write Markdown. Goes to $GITHUB_STEP_SUMMARY by itself.",
    "sarif": "Write SARIF 2.1.0.",
    "benchmark-json": "Write what github-action-benchmark reads (customSmallerIsBetter).",
    "bencher": "Write Bencher Metric Format.",
    "openmetrics": "Write OpenMetrics text.",
    "csv": "Write CSV.",
}


def outputs(*names: str) -> Decorator:
    """Files for CI besides stdout."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for name in reversed(names):
            option = click.option(f"--{name}", type=click.Path(path_type=Path), metavar="FILE", help=OUTPUTS[name])
            command = option(command)
        return command

    return decorate


@contextmanager
def said_after(problems: Sequence[MloptError]) -> Iterator[None]:
    """A verb's own verdict comes first: what else went wrong ends the run only where the block raises nothing."""
    try:
        yield
    except MloptError:
        _say(problems)
        raise
    if problems:
        _say(problems[:-1])
        raise problems[-1]


def _say(problems: Sequence[MloptError]) -> None:
    for problem in problems:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {problem}", err=True)


def limit(flag: str, example: str, kind: str, help: str, *, bare: bool = False) -> Decorator:
    """An option whose value has a unit; `kind` names the one in `mlopt.units`, which is read when it is needed. `bare`
    takes a share without a unit too, where nobody could mean percent by 0.7."""

    def read(context: click.Context, parameter: click.Parameter, text: str | None) -> float | None:
        if not text:
            return None
        from mlopt import units

        try:
            plain = bare and re.fullmatch(r"[01]?\.[0-9]+", text)
            return units.parse(getattr(units, kind), float(text) if plain else text)
        except ValueError as error:
            more = ", or 0% for no drop at all" if kind == "Fraction" and not bare else ""
            raise Misused(f"{flag}: {error}.", next=f"{flag} {example}{more}") from error

    return click.option(flag, metavar=example, callback=read, help=help)


def _no_color(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.color = False
        os.environ["NO_COLOR"] = "1"  # for what is printed outside the command, and by other processes
