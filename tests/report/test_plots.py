"""Plots: whatever the numbers are, every stroke lies inside the view box, and every candidate is drawn or named."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from report import made_reports

from mlopt.measurement import Interval, Latency
from mlopt.report.axis import fit
from mlopt.report.cumulative import cumulative_plot
from mlopt.report.distributions import density, latency_plot
from mlopt.report.memory import memory_plot
from mlopt.report.plots import Figure, median_interval, pareto_plot
from mlopt.report.report import Report
from mlopt.report.roofline import roofline_plot

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
CHARACTER = 6.9  # what labels.py takes an average character for

any_float = some.floats(allow_nan=True, allow_infinity=True)
times = some.one_of(some.floats(1e-7, 1e3), any_float)
shares = some.one_of(some.floats(0, 1), any_float)
sizes = some.integers(0, 10**13)


@pytest.mark.parametrize("name", made_reports.ALL)
@pytest.mark.parametrize("plot", [pareto_plot, latency_plot, cumulative_plot, memory_plot, roofline_plot])
def test_every_stroke_of_real_looking_reports_is_inside(name: str, plot: object) -> None:
    assert callable(plot)
    figure = plot(made_reports.ALL[name]())
    assert figure.caption
    if figure.drawing:
        _assert_inside(figure)


@settings(max_examples=60, deadline=None)
@given(
    some.lists(some.tuples(times, times, times, shares, shares, shares, sizes), min_size=1, max_size=5),
    any_float,
    any_float,
)
def test_every_stroke_is_inside_whatever_the_numbers_are(
    numbers: list[tuple[float, float, float, float, float, float, int]], most: float, drop: float
) -> None:
    report = made_reports.labelled()
    candidates = []
    for candidate, (fast, middle, slow, top1, low, high, size) in zip(report.candidates, numbers, strict=False):
        assert candidate.measurement
        assert candidate.accuracy
        latency = Latency(fast, middle, slow, fast, slow, 3, (fast, middle, slow) * 3, slow, slow, slow)
        candidates.append(
            replace(
                candidate,
                file_size=size,
                measurement=replace(candidate.measurement, latency=latency),
                accuracy=replace(candidate.accuracy, top1=top1, drop=Interval(low, low, high, "any")),
            )
        )
    report = replace(report, candidates=tuple(candidates), profile={"budgets": {"latency_p50": most, "max_drop": drop}})
    for figure in (pareto_plot(report), latency_plot(report), cumulative_plot(report)):
        if figure.drawing:
            _assert_inside(figure)


@pytest.mark.parametrize("name", made_reports.ALL)
def test_every_candidate_is_drawn_or_named_as_missing(name: str) -> None:
    report = made_reports.ALL[name]()
    figure = pareto_plot(report)
    if not figure.drawing:
        assert "nothing to plot" in figure.caption
        return
    circles = _tree(figure).findall(f".//{SVG}circle[@r]")
    drawn = sum("mark" in circle.get("class", "") for circle in circles)
    missing = sum(candidate.name in figure.caption.partition("Not in the plot")[2] for candidate in report.candidates)
    assert drawn + missing == len(report.candidates)


def test_the_area_of_a_circle_is_the_size_of_the_file() -> None:
    marks = _marks(made_reports.labelled())
    assert (marks["fp32"] / marks["fp16"]) ** 2 == pytest.approx(4_951_234 / 2_488_102, rel=0.02)


def test_the_front_leaves_out_what_another_beats_on_both_axes() -> None:
    figure = pareto_plot(made_reports.labelled())
    front = next(path for path in _tree(figure).iter(f"{SVG}path") if path.get("class") == "front")
    corners = len(NUMBERS.findall(front.get("d", ""))) // 2
    assert corners == 5  # up to int8-static, along, up to fp32, along to the edge: fp16 and the others are beaten


def test_another_machine_is_plotted_against_size_and_says_so() -> None:
    figure = pareto_plot(made_reports.elsewhere())
    assert figure.title == "top-1 against file size"
    assert "this machine is not jetson-orin-nano-8gb" in figure.caption
    assert " ms" not in figure.drawing
    assert latency_plot(made_reports.elsewhere()).drawing == ""


def test_budgets_are_lines_near_the_data_and_arrows_far_from_it() -> None:
    near = _with_budgets(made_reports.labelled(), {"latency_p50": 0.008, "max_drop": 0.02})
    assert near.drawing.count('<line class="limit"') == 2
    far = _with_budgets(made_reports.labelled(), {"latency_p50": 33.0, "max_drop": 0.02})
    assert far.drawing.count('<line class="limit"') == 1
    assert "budget 33.0 s →" in far.drawing


def test_a_plot_has_a_title_and_a_description_that_names_every_number() -> None:
    tree = _tree(pareto_plot(made_reports.labelled()))
    ids = (tree.get("aria-labelledby") or "").split()
    described = [element for element in tree.iter() if element.get("id") in ids]
    assert [element.tag for element in described] == [f"{SVG}title", f"{SVG}desc"]
    assert "int8-static (ships): 2.32 ms, top-1 48.2 %, 1.29 MB" in (described[1].text or "")


def test_names_do_not_lie_on_each_other_in_a_usual_report() -> None:
    boxes = [
        _box(name)
        for name in _tree(pareto_plot(made_reports.labelled())).iter(f"{SVG}text")
        if "name" in name.get("class", "")
    ]
    assert len(boxes) == 5
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@given(some.lists(any_float, max_size=6))
def test_an_axis_clamps_and_its_ticks_are_few_rising_and_inside(values: list[float]) -> None:
    axis = fit(values, start=10, end=110)
    ticks = axis.ticks()
    assert axis.low < axis.high
    assert list(ticks) == sorted(set(ticks))
    assert len(ticks) <= 21
    for value in [*values, *ticks]:
        assert 10 <= axis.at(value) <= 110
    slack = 1e-6 * (axis.high - axis.low)
    assert all(axis.low - slack <= tick <= axis.high + slack for tick in ticks)


def test_ticks_are_round() -> None:
    assert fit([0.002, 0.0105], start=0, end=1).ticks() == pytest.approx((0.002, 0.004, 0.006, 0.008, 0.01))
    assert fit([1.0, 100.0], start=0, end=1).ticks() == (1, 2, 5, 10, 20, 50, 100)


def test_the_interval_of_the_median_is_that_of_order_statistics() -> None:
    assert median_interval([float(i) for i in range(1, 101)]) == (41, 60)
    assert median_interval([1.0] * 5) is None
    assert median_interval([math.nan] * 50) is None


def test_density_counts_what_is_on_the_axis() -> None:
    axis = fit([0.0, 10.0], start=0, end=100)
    heights = density([5.0] * 9 + [math.nan, math.inf, 1e9], axis, bins=10)
    assert max(heights) == heights[4] == 1.0
    assert density([], axis, bins=10) == (0.0,) * 10


def _with_budgets(report: Report, budgets: dict[str, float]) -> Figure:
    return pareto_plot(replace(report, profile={**report.profile, "budgets": budgets}))


def _marks(report: Report) -> dict[str, float]:
    marks = {}
    for circle in _tree(pareto_plot(report)).iter(f"{SVG}circle"):
        title = circle.find(f"{SVG}title")
        if title is not None and title.text:
            marks[title.text.partition(" (")[0]] = float(circle.get("r", "0"))
    return marks


def _tree(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(figure.drawing)


def _assert_inside(figure: Figure) -> None:
    tree = _tree(figure)
    _, _, width, height = (float(number) for number in (tree.get("viewBox") or "").split())
    for element in tree.iter():
        assert "nan" not in str(element.attrib)
        assert "inf" not in str(element.attrib)
        for x, y in _corners(element):
            assert -0.1 <= x <= width + 0.1, (element.tag, element.attrib)
            assert -0.1 <= y <= height + 0.1, (element.tag, element.attrib)


def _corners(element: ElementTree.Element) -> list[tuple[float, float]]:
    def number(key: str) -> float:
        return float(element.get(key, "0"))

    tag = element.tag.removeprefix(SVG)
    if tag == "circle":
        x, y, r = number("cx"), number("cy"), number("r")
        return [(x - r, y - r), (x + r, y + r)]
    if tag == "line":
        return [(number("x1"), number("y1")), (number("x2"), number("y2"))]
    if tag == "rect":
        x, y = number("x"), number("y")
        assert number("width") >= 0
        assert number("height") >= 0
        return [(x, y), (x + number("width"), y + number("height"))]
    if tag == "path":
        values = [float(value) for value in NUMBERS.findall(element.get("d", ""))]
        return list(zip(values[::2], values[1::2], strict=True))
    if tag == "text":
        left, top, right, bottom = _box(element)
        return [(left, top), (right, bottom)]
    return []


def _box(element: ElementTree.Element) -> tuple[float, float, float, float]:
    """Where a text lies; names are taken at the width that placed them, ticks and axes at a little less."""
    css = element.get("class", "")
    wide = len(element.text or "") * (CHARACTER if "name" in css else 5.5)
    x, y = float(element.get("x", "0")), float(element.get("y", "0"))
    left = {"start": x, "middle": x - wide / 2, "end": x - wide}[element.get("text-anchor", "start")]
    return left, y - 11, left + wide, y + 3
