"""The figures of the insides: shares that only rise, layers matched without losing time, all of it on the page."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from report import made_insight, made_reports

from mlopt.insight import Anatomy, Insight
from mlopt.report.axis import fit
from mlopt.report.cumulative import histogram, share_within
from mlopt.report.html import page_of, to_html
from mlopt.report.layers import inside_of, total
from mlopt.report.memory import held_at
from mlopt.report.report import Report
from mlopt.report.roofline import roof, roofline_plot
from mlopt.report.sides import sides_of

times = some.lists(some.floats(1e-6, 1e3), min_size=1, max_size=60)


@given(times, some.lists(some.floats(0, 1e4), min_size=2, max_size=20))
def test_shares_rise_from_nothing_to_all(samples: list[float], limits: list[float]) -> None:
    ordered = sorted(samples)
    shares = [share_within(ordered, limit) for limit in sorted(limits)]
    assert all(before <= after for before, after in pairwise(shares))
    assert share_within(ordered, min(samples) * 0.99) == 0
    assert share_within(ordered, max(samples)) == 1


@given(times)
def test_a_histogram_holds_every_sample_on_the_axis(samples: list[float]) -> None:
    across = fit(samples, start=10, end=500)
    assert math.isclose(sum(histogram(samples, across)), 1.0)


def test_parts_lose_no_time_and_name_no_node_twice() -> None:
    report = made_reports.labelled()
    inside = inside_of(report)
    assert len(inside.wholes) == 2
    for number, whole in enumerate(inside.wholes):
        amounts = [part.amounts[number] for part in inside.parts]
        assert math.isclose(sum(one.seconds for one in amounts if one), total(whole.layers))
        assert math.isclose(sum(one.share for one in amounts if one), 1.0)
    nodes = [node for part in inside.parts for node in part.nodes]
    assert len(nodes) == len(set(nodes))


def test_what_one_side_fuses_is_held_against_all_of_it_on_the_other() -> None:
    part = next(part for part in inside_of(made_reports.labelled()).parts if "fire2/squeeze" in part.nodes)
    before, after = part.amounts
    assert before
    assert after
    assert (before.layers, after.layers) == (2, 1)
    assert part.ratio == "2.00×"  # 300 + 100 µs against 200
    assert part.name == "fire2/squeeze and 1 more"


def test_conversions_and_layouts_are_rows_of_their_own() -> None:
    parts = {part.name: part for part in inside_of(made_reports.labelled()).parts}
    assert parts["conversions between floats and int8"].amounts[0] is None
    assert parts["ReorderOutput ×2"].holds == "added by the runtime"


def test_fused_nodes_and_silent_ones_are_told() -> None:
    facts = " ".join(inside_of(made_reports.labelled()).wholes[0].facts)
    assert "38 nodes run as 19 fused layers" in facts
    assert "1 node has no time" in facts
    assert "under the profiler" in facts


def test_a_roof_is_the_lower_of_bytes_and_products() -> None:
    insight = made_insight.made_insight("a", "b")
    assert insight.peaks
    anatomy = insight.of("b")
    assert anatomy
    assert anatomy.layers
    layer = anatomy.layers.layers[1]
    assert roof(insight.peaks, layer, 1.0) == 8.6e9
    assert roof(insight.peaks, layer, 1e6) == 1.49e12
    assert roof(insight.peaks, replace(layer, arithmetic="bf16"), 1.0) is None


def test_layers_above_a_roof_are_admitted() -> None:
    report = made_reports.labelled()
    assert report.insight
    assert report.insight.peaks
    low = tuple(replace(peak, rate=peak.rate / 100) for peak in report.insight.peaks.peaks)
    slow = replace(report, insight=replace(report.insight, peaks=replace(report.insight.peaks, peaks=low)))
    assert "above the level roof" in roofline_plot(slow).caption


def test_memory_at_a_mark_is_the_most_until_then() -> None:
    insight = made_insight.made_insight("a", "b")
    trace = insight.anatomies[0].memory
    assert trace
    marks = dict(trace.marks)
    held = [held_at(trace, marks[name]) for name in ("imported", "loaded", "answered", "done")]
    assert held == sorted(held)
    assert held_at(trace, -1.0) == 0


def test_a_baseline_that_ships_is_one_side() -> None:
    report = made_reports.baseline_ships()
    assert [(side.name, side.css) for side in sides_of(report)] == [("fp32", "ships")]
    page = page_of(report)
    assert len(page.inside.wholes) == 1
    assert "times faster" not in to_html(report)


@pytest.mark.parametrize("kind", ["no-layers", "no-memory", "no-peaks", "nothing"])
def test_what_is_missing_is_said_and_the_rest_is_shown(kind: str) -> None:
    report = made_reports.labelled()
    assert report.insight
    changes: dict[str, Any] = {
        "no-layers": lambda one: Anatomy(one.candidate, None, one.memory, "it has no profiler that mlopt can read."),
        "no-memory": lambda one: replace(one, memory=None),
        "no-peaks": lambda one: one,
        "nothing": lambda one: one,
    }
    insight: Insight | None = Insight(
        None if kind == "no-peaks" else report.insight.peaks,
        tuple(changes[kind](one) for one in report.insight.anatomies),
    )
    shown: Report = replace(report, insight=None if kind == "nothing" else insight)
    html = to_html(shown)
    assert ('id="layers"' in html) == (kind != "nothing")
    assert ("it has no profiler" in html) == (kind == "no-layers")
    assert ('id="memory"' in html) == (kind not in ("no-memory", "nothing"))
    assert ('id="roofline"' in html) == (kind == "no-memory")
