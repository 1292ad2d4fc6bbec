"""The page people look at: one HTML file that needs nothing else, opens offline and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlopt.report import gpu, plots, text, verdict
from mlopt.report.cumulative import cumulative_plot
from mlopt.report.distributions import latency_plot
from mlopt.report.layers import HEADS, Inside, inside_of
from mlopt.report.memory import memory_plot
from mlopt.report.quality import budgets_of
from mlopt.report.report import Report
from mlopt.report.roofline import roofline_plot
from mlopt.report.table import Cell, Column, Row, Table, table_of
from mlopt.report.verdict import BudgetLine

if TYPE_CHECKING:
    from jinja2 import Environment


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of what ships, large, and how it stands against the baseline's."""

    name: str
    cell: Cell
    against: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image; `share` of its platform's compressed bytes, 0 to 100."""

    name: str
    compressed: int
    unpacked: int
    share: float


@dataclass(frozen=True, slots=True)
class Page:
    """All that the template shows beside the report itself. The template formats nothing and decides nothing."""

    headline: str
    tone: str
    in_short: str
    why: str
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]
    budgets: tuple[BudgetLine, ...]
    table: Table
    methods: tuple[tuple[Column, Cell], ...]
    figures: tuple[plots.Figure, ...]
    cumulative: plots.Figure
    memory: plots.Figure
    roofline: plots.Figure
    inside: Inside
    on_gpu: tuple[tuple[str, str], ...]
    lineages: tuple[Row, ...]
    images: tuple[tuple[str, int, tuple[Layer, ...]], ...]
    slowest_step: float
    profile: tuple[tuple[str, str], ...]
    command: str


def to_html(report: Report) -> str:
    """The whole page. Texts of the report are escaped, its control characters made visible."""
    report = text.cleaned(report)
    return environment().get_template("report.html.j2").render(report=report, page=page_of(report))


def page_of(report: Report) -> Page:
    table = table_of(report)
    winner = next((row for row in table.rows if row.role == "ships"), None)
    return Page(
        headline=verdict.headline(report),
        tone=_tone(report, winner),
        in_short=verdict.budgets_in_short(report),
        why=verdict.why(report),
        warnings=verdict.warnings(report),
        tiles=_tiles(table, winner),
        budgets=verdict.budgets(verdict.shipped(report)),
        table=table,
        methods=_methods(table),
        figures=(plots.pareto_plot(report), latency_plot(report)),
        cumulative=cumulative_plot(report),
        memory=memory_plot(report),
        roofline=roofline_plot(report),
        inside=inside_of(report),
        on_gpu=tuple(gpu.of_candidates(report)),
        lineages=tuple(row for row in table.rows if row.candidate.lineage),
        images=_images(report),
        slowest_step=max((step.seconds for step in report.steps), default=0.0),
        profile=_profile(report),
        command=verdict.command(report),
    )


def _tone(report: Report, winner: Row | None) -> str:
    """Whether the verdict is shown as good, as a warning or as bad."""
    if winner is None:
        return "bad"
    outcomes = {one.outcome for one in winner.candidate.verdicts}
    if "missed" in outcomes:
        return "bad"
    return "warn" if "unmeasured" in outcomes or winner.candidate.measurement is None else "good"


def _tiles(table: Table, winner: Row | None) -> tuple[Tile, ...]:
    if winner is None:
        return ()
    first = next((row for row in table.rows if row.is_baseline), winner)
    quality = [key for key in ("top1", "agreement", "sqnr") if _has(table, key)][:1]
    names = {column.key: column.heading for column in table.columns} | {"p50": "latency p50", "size": "file size"}
    tiles = []
    for key in (key for key in ("p50", "size", *quality, "memory") if key in names):
        compared = (
            f"against {first.candidate.name}" if key in ("agreement", "sqnr") else f"baseline {first.cells[key].text}"
        )
        against = "this is the baseline" if first is winner else compared
        beside = winner.cells.get({"p50": "speedup", "top1": "drop"}.get(key, ""))
        if first is not winner and beside is not None and beside.grade != "unmeasured":
            against += f" · {'drop ' if key == 'top1' else ''}{beside.text} {beside.detail}"
        tiles.append(Tile(names[key], winner.cells[key], against))
    return tuple(tiles)


def _has(table: Table, key: str) -> bool:
    return any(column.key == key for column in table.columns)


def _methods(table: Table) -> tuple[tuple[Column, Cell], ...]:
    """For each column, a number in it that says how such numbers came to be; one that is absent says why."""
    found = []
    for column in table.columns:
        cells = [row.cells[column.key] for row in table.rows]
        found += [(column, next((cell for cell in cells if cell.grade != "unmeasured"), cells[0]))] if cells else []
    return tuple(found)


def _images(report: Report) -> tuple[tuple[str, int, tuple[Layer, ...]], ...]:
    if report.image is None:
        return ()
    return tuple((platform, *_layers(layers)) for platform, layers in sorted(report.image.platforms.items()))


def _layers(layers: Sequence[tuple[str, int, int]]) -> tuple[int, tuple[Layer, ...]]:
    total = sum(compressed for _, compressed, _ in layers)
    return total, tuple(
        Layer(name, compressed, unpacked, 100 * compressed / total if total else 0.0)
        for name, compressed, unpacked in layers
    )


def _profile(report: Report) -> tuple[tuple[str, str], ...]:
    """The profile's wishes, its budgets in their units; a budget that is not set is not shown."""
    limits = tuple(
        (verdict.budget_name(name), verdict.budget_limit(name, limit)) for name, limit in budgets_of(report).items()
    )
    wishes = {name: value for name, value in report.profile.items() if name != "budgets"}
    return (*_plain_items(wishes), *limits)


def environment() -> Environment:
    """What reads the templates of `reports/`, with the filters that format numbers; everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from mlopt.paths import folder

    environment = Environment(
        loader=FileSystemLoader(folder("reports")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for show in (
        text.seconds,
        text.size,
        text.count,
        text.cosine,
        text.difference,
        text.digest,
        text.plain,
        text.percent,
    ):
        environment.filters[show.__name__] = show
    environment.filters["plain_items"] = _plain_items
    environment.globals["marks"] = verdict.OUTCOME_MARKS
    environment.globals["shape"] = _shape
    environment.globals["layer_heads"] = HEADS
    return environment


def _shape(dimensions: Sequence[int | str]) -> str:
    return " × ".join(str(size) for size in dimensions) or "scalar"


def _plain_items(values: Mapping[str, object]) -> list[tuple[str, str]]:
    return [(name, text.plain(value)) for name, value in values.items()]
