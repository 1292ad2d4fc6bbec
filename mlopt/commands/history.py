"""`mlopt history`: what bench, compile and gate found over time, and where it changed."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlopt.commands.options import history_option

if TYPE_CHECKING:
    from mlopt.history.entry import Entry
    from mlopt.history.series import Series

_STDIN: Final = "-"


@click.group(name="history")
def command() -> None:
    """Results over time, in one SQLite file.

    bench, compile and gate record into it when they are told which: --history FILE, $MLOPT_HISTORY, or file in
    [history] of mlopt.toml.

    \b
      mlopt bench reference.onnx model.onnx --history results.db
      mlopt history show --history results.db --html trend.html
    """


@command.command(name="show")
@history_option
@click.option("-m", "--model", "models", multiple=True, metavar="NAME", help="Of this model only (repeatable).")
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="Of this number only (repeatable).")
@click.option("--html", type=click.Path(path_type=Path), metavar="FILE", help="Write the page of trends.")
@click.option("--json", "as_json", is_flag=True, help="The series as JSON on stdout.")
def show(
    history: Path | None, models: tuple[str, ...], metrics: tuple[str, ...], html: Path | None, as_json: bool
) -> None:
    """What changed, newest first, and where every number stands.

    A change is where a series is another one from then on, and not by chance: at a level of 1 % by permutation.
    """
    from mlopt.history.metrics import METRICS
    from mlopt.history.series import series_of
    from mlopt.history.text import to_terminal
    from mlopt.registry import unknown

    for metric in metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, tuple(METRICS))
    path, entries = _read(history)
    if models:
        names = sorted({entry.model for entry in entries})
        for model in models:
            if model not in names:
                raise unknown("model in this history", model, tuple(names))
        entries = [entry for entry in entries if entry.model in models]
    series = [one for one in series_of(entries) if not metrics or one.metric in metrics]
    if html:
        from mlopt.ci.files import put_page
        from mlopt.history.page import to_html

        put_page(html, to_html(path.name, entries, series))
    if as_json:
        click.echo(json.dumps([_plain(one) for one in series], indent=1))
    else:
        click.echo(to_terminal(path, entries, series, width=shutil.get_terminal_size((100, 24)).columns))
        if html:
            click.echo(f"\npage  {html}")


@command.command(name="export")
@history_option
def export(history: Path | None) -> None:
    """All results as JSON lines on stdout, one a line, oldest first."""
    from mlopt.history.entry import line_of

    for entry in _read(history)[1]:
        click.echo(line_of(entry))


@command.command(name="import")
@history_option
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
def import_(history: Path | None, files: tuple[Path, ...]) -> None:
    """Add what `export` wrote, of this or another machine; - is stdin. What is there already stays once.

    All of it is added, or nothing.
    """
    from mlopt.errors import ModelNotFound
    from mlopt.history.entry import read_line
    from mlopt.history.shelf import History

    found = []
    for file in files:
        try:
            text = sys.stdin.read() if str(file) == _STDIN else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ModelNotFound("There is no readable file at this path.", where=str(file)) from error
        lines = enumerate(text.splitlines(), 1)
        found += [read_line(line, where=f"{file}:{number}") for number, line in lines if line.strip()]
    with History(_path(history), create=True) as opened:
        added = opened.add(found)
    click.echo(f"{added} added, {len(found) - added} were there already")


def _read(given: Path | None) -> tuple[Path, list[Entry]]:
    from mlopt.history.shelf import History

    path = _path(given)
    with History(path) as opened:
        return path, opened.entries()


def _path(given: Path | None) -> Path:
    from mlopt.errors import Misused
    from mlopt.project import find_project

    if path := given or find_project(Path()).history:
        return path
    raise Misused("No history is named.", next="--history FILE, MLOPT_HISTORY, or file in [history] of mlopt.toml")


def _plain(series: Series) -> object:
    from mlopt.report.report import to_json

    entry = series.entry
    points = [
        {"time": point.entry.time, "revision": point.entry.revision, **to_json(point.number)} for point in series.points
    ]
    facts = {name: getattr(entry, name) for name in ("model", "variant", "runtime", "scenario", "threads", "batch")}
    return {
        "metric": series.metric,
        **facts,
        "device": entry.device,
        "points": points,
        "changes": to_json(series.changes),
    }
