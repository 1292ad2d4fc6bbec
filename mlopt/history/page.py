"""The page of trends: one HTML file that needs nothing else, opens offline and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import Final

from mlopt.history import text as said
from mlopt.history.entry import Entry
from mlopt.history.metrics import shown, title
from mlopt.history.plot import trend_plot
from mlopt.history.series import Change, Series
from mlopt.report import text
from mlopt.report.html import environment
from mlopt.report.plots import Figure


@dataclass(frozen=True, slots=True)
class Trend:
    """One series, ready to be shown."""

    link: str
    title: str
    latest: str
    figure: Figure
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One change in the table on top. `tone`: good, bad, or warn where the machine may have changed instead."""

    day: str
    model: str
    metric: str
    link: str
    tone: str
    from_to: str
    where: str
    also: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how the series below it were measured; empty where there is nothing to say."""

    how: str
    trends: tuple[Trend, ...]


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Page:
    name: str
    mlopt: str
    headline: str
    tone: str
    span: str
    lines: tuple[Line, ...]
    models: tuple[Model, ...]
    method: str


def to_html(name: str, entries: Sequence[Entry], series: Sequence[Series]) -> str:
    """The whole page. Names of models are escaped, their control characters made visible."""
    found = page_of(name, text.cleaned(tuple(entries)), text.cleaned(tuple(series)))
    return environment().get_template("history.html.j2").render(page=found)


def page_of(name: str, entries: Sequence[Entry], series: Sequence[Series]) -> Page:
    names = {id(one): f"trend-{number}" for number, one in enumerate(series)}
    lines = tuple(_line(one, change, names[id(one)]) for one, change in said.changes_of(series))
    models = []
    for model, group in groupby(series, key=lambda one: one.entry.name):
        places = said.by_place(list(group))
        trends = (Place(how, tuple(_trend(one, names[id(one)]) for one in series)) for how, series in places)
        models.append(Model(model, tuple(trends)))
    sure = [line for line in lines if line.tone == "bad"]
    return Page(
        name=name,
        mlopt=version("mlopt"),
        headline=_headline(lines),
        tone="bad" if sure else "warn" if any(line.tone == "warn" for line in lines) else "good",
        span=said.summary(entries),
        lines=lines,
        models=tuple(models),
        method=said.method(series),
    )


def _headline(lines: Sequence[Line]) -> str:
    if not lines:
        return "Nothing has changed"
    counts = [(sum(line.tone == tone for line in lines), word) for tone, word in _WORDS.items()]
    changes = "change" if len(lines) == 1 else "changes"
    return f"{len(lines)} {changes}: {', '.join(f'{count} {word}' for count, word in counts if count)}"


_WORDS: Final = {"bad": "for the worse", "good": "for the better", "warn": "that may be the machine's"}


def _line(series: Series, change: Change, link: str) -> Line:
    entry = series.points[change.index].entry
    return Line(
        day=said.day(entry.time)[:10],
        model=entry.name,
        metric=title(series.metric),
        link=link,
        tone="warn" if series.kind == "clock" else "bad" if change.worse else "good",
        from_to=said.from_to(series, change),
        where=said.where(change),
        also=text.listed(change.also),
    )


def _trend(series: Series, name: str) -> Trend:
    return Trend(
        link=name,
        title=title(series.metric),
        latest=shown(series.metric, series.points[-1].number.value),
        figure=trend_plot(series, name=name),
        changes=tuple(f"{said.from_to(series, one)}, {said.where(one)}" for one in series.changes),
    )
