"""The page of two results beside each other: one HTML file, offline and without a script."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from mlopt.history.changes_plot import changes_plot
from mlopt.history.compare import Comparison, Match, compare
from mlopt.history.compared_text import change, name_of, word
from mlopt.history.entry import Entry
from mlopt.history.metrics import shown
from mlopt.insight import Layer, Layers
from mlopt.report import text
from mlopt.report.html import environment
from mlopt.report.layers import Part, parts_of, total
from mlopt.report.plots import Figure
from mlopt.report.sides import Side

_MARKS: Final = {"worse": "✗", "better": "✓", "undecided": "?", "": ""}


@dataclass(frozen=True, slots=True)
class Given:
    """One side: what the person named, its entries, and of a bundle its report.json."""

    name: str
    entries: Sequence[Entry]
    report: Mapping[str, Any] | None

    @property
    def shipped(self) -> Entry | None:
        wanted = self.report["winner"] if self.report else None
        return next((one for one in self.entries if one.variant == wanted), None)


@dataclass(frozen=True, slots=True)
class Line:
    """One number of both; `tone` is the word, or `same`."""

    metric: str
    before: str
    after: str
    change: str
    mark: str
    tone: str


@dataclass(frozen=True, slots=True)
class Block:
    """One model of A and one of B."""

    name: str
    bytes: str
    lines: tuple[Line, ...]
    left: tuple[tuple[str, str], ...]
    figure: Figure


@dataclass(frozen=True, slots=True)
class Fact:
    """Something about how both came to be."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Layers of what ships in both: shares, for clocks of two runs are not compared."""

    parts: tuple[Part, ...]
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Page:
    before: str
    after: str
    mlopt: str
    headline: str
    tone: str
    said: str
    first: Block | None
    differing: tuple[Fact, ...]
    same: tuple[Fact, ...]
    spent: Spent | None
    blocks: tuple[Block, ...]
    alone: tuple[tuple[str, str], ...]


def to_html(before: Given, after: Given) -> str:
    """The whole page. Names are escaped, their control characters made visible."""
    page = page_of(text.cleaned(before), text.cleaned(after))
    return environment().get_template("compare.html.j2").render(page=page)


def report_in(path: Path) -> Mapping[str, Any] | None:
    """The report of a bundle that was read already; None of any other result."""
    if not path.is_dir():
        return None
    found: Mapping[str, Any] = json.loads((path / "report.json").read_bytes())
    return found


def page_of(before: Given, after: Given) -> Page:
    found = compare(before.entries, after.entries)
    blocks = [_block(match, f"changes-{number}") for number, match in enumerate(found.matches)]
    first = None
    if before.shipped and after.shipped:
        first = _block(compare([before.shipped], [after.shipped]).matches[0], "changes")
    told = first or (blocks[0] if len(blocks) == 1 else None)
    headline, tone = _headline(told, found)
    facts = tuple(_facts(before, after))
    return Page(
        before=before.name,
        after=after.name,
        mlopt=version("mlopt"),
        headline=headline,
        tone=tone,
        said=_said(before, after, found),
        first=told,
        differing=tuple(fact for fact in facts if fact.before != fact.after),
        same=tuple(fact for fact in facts if fact.before == fact.after),
        spent=_spent(before, after),
        blocks=() if told is not None and first is None else tuple(blocks),
        alone=tuple(
            (side, ", ".join(names)) for side, names in (("A", found.only_before), ("B", found.only_after)) if names
        ),
    )


def _headline(told: Block | None, found: Comparison) -> tuple[str, str]:
    if told is None:
        count = len(found.matches)
        return (f"{count} models are in both" if count != 1 else "One model is in both"), "warn"
    counts = {name: [line.metric for line in told.lines if line.tone == name] for name in ("better", "worse")}
    said = [f"{text.listed(names)} {name}" for name, names in counts.items() if names]
    undecided = sum(line.tone == "undecided" for line in told.lines)
    said += [f"{undecided} undecided"] if undecided else []
    tone = "bad" if counts["worse"] else "good" if counts["better"] else "warn"
    return (f"B beside A: {'; '.join(said)}" if said else "Nothing that can be compared differs"), tone


def _said(before: Given, after: Given, found: Comparison) -> str:
    if before.report and after.report:
        one, other = before.report["winner"], after.report["winner"]
        return f"A ships {one} and B ships {other}." if one != other else f"Both ship {one}."
    return f"{len(found.matches)} models are compared." if len(found.matches) != 1 else ""


def _block(match: Match, name: str) -> Block:
    before, after = match.before, match.after
    lines = []
    for pair in match.pairs:
        said = word(pair)
        values = (shown(pair.metric, pair.before.value), shown(pair.metric, pair.after.value))
        lines.append(Line(name_of(pair.metric), *values, change(pair), _MARKS[said], said or "same"))
    return Block(
        name=before.name if before.name == after.name else f"{before.name} → {after.name}",
        bytes="the same bytes" if before.digest == after.digest else "other bytes",
        lines=tuple(lines),
        left=tuple((text.listed(name_of(metric) for metric in left.metrics), left.reason) for left in match.left),
        figure=changes_plot(match.pairs, name=name),
    )


def _facts(before: Given, after: Given) -> Iterator[Fact]:
    if not before.report or not after.report:
        return
    both = [dict(_told(one)) for one in (before.report, after.report)]
    for name in dict.fromkeys(name for one in both for name in one):
        yield Fact(name, both[0].get(name, "none"), both[1].get(name, "none"))


def _told(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader holds two runs against, the same names in both."""
    ships = next((one for one in report["candidates"] if one["name"] == report["winner"]), None)
    yield "ships", report["winner"] or "nothing"
    if ships:
        yield "precision", ships["precision"]
        yield "runtime", ships["runtime"]
        yield "steps", " → ".join(link["step"] for link in ships["lineage"]) or "none"
        for verdict in ships["verdicts"]:
            yield f"budget {verdict['budget']}", verdict["outcome"]
    yield "why", report["why"] or "none"
    yield "model", f"{report['model']['name']} ({text.digest(report['model']['digest'])})"
    yield "target", report["target"]["name"]
    yield "machine", report["machine"].get("cpu", "unknown")
    yield "profile", str(report["profile"].get("name", "none"))
    samples = report["samples"]
    yield "samples", f"{samples['source']}, {samples['evaluation']} for evaluation" if samples else "none"
    yield "candidates", str(len(report["candidates"]))
    yield from sorted({**report["tools"], "mlopt": report["mlopt"]}.items())


def _spent(before: Given, after: Given) -> Spent | None:
    both = [_layers(one) for one in (before, after)]
    if not all(both):
        return None
    known = [
        (Side(name, css), layers)
        for name, css, layers in zip(("A", "B"), ("baseline", "ships"), both, strict=True)
        if layers and total(layers)
    ]
    names = tuple(
        f"{side.name} ({layers.runtime}, {text.operations(sum(one.operations or 0 for one in layers.layers))})"
        for side, layers in known
    )
    return Spent(tuple(parts_of(known)), names) if len(known) == 2 else None


def _layers(given: Given) -> Layers | None:
    """Those of what ships, if its inside was looked at."""
    if not given.report:
        return None
    try:
        for one in (given.report.get("insight") or {"anatomies": []})["anatomies"]:
            if one["candidate"] == given.report["winner"] and one["layers"]:
                layers = [Layer(**{**layer, "nodes": tuple(layer["nodes"])}) for layer in one["layers"]["layers"]]
                return Layers(**{**one["layers"], "layers": tuple(layers)})
    except (KeyError, TypeError):  # of another version of mlopt: the rest is still compared
        return None
    return None
