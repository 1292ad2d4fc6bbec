"""Numbers as people read them: boundaries between units, absent values, signs; and texts that are safe to show."""

from __future__ import annotations

import doctest
import math

import pytest

from mlopt.measurement import Interval
from mlopt.report import axis, plots, svg, terminal, text, verdict


@pytest.mark.parametrize("module", [axis, plots, svg, terminal, text, verdict], ids=lambda module: module.__name__)
def test_the_examples_in_docstrings_hold(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00 ns"),
        (850e-6, "850 µs"),
        (999.4e-6, "999 µs"),
        (999.6e-6, "1.00 ms"),
        (0.0331, "33.1 ms"),
        (0.9996, "1.00 s"),
        (119.4, "119 s"),
        (119.6, "2 min 00 s"),
        (-0.002, "-2.00 ms"),
    ],
)
def test_a_time_takes_the_unit_that_fits_after_rounding(value: float, shown: str) -> None:
    assert text.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (999_600, "1.00 MB"), (8 * 10**9, "8.00 GB")]
)
def test_a_size_takes_the_unit_that_fits_after_rounding(value: int, shown: str) -> None:
    assert text.size(value) == shown


@pytest.mark.parametrize(
    "show", [text.seconds, text.size, text.percent, text.points, text.times, text.rate, text.cosine]
)
@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_shown_as_absent(show: object, value: float | None) -> None:
    assert callable(show)
    assert show(value) == text.ABSENT


def test_an_interval_that_could_not_be_closed_says_so() -> None:
    assert text.times(Interval(2.0, 1.5, math.inf, "rounds")) == "2.00× [1.50, –]"


def test_a_share_that_is_not_all_does_not_round_to_all() -> None:
    assert text.percent(0.99999) == "100.00 %" or text.percent(0.9996) == "99.96 %"
    assert text.percent(1.0) == "100.0 %"


def test_a_drop_of_nothing_has_no_sign() -> None:
    assert text.points(-0.0001) == "0.0 pt"


def test_cleaning_reaches_every_text_and_leaves_the_numbers() -> None:
    value = {"a\x1b[31m": ("b\u202ec", 1.5, ("d\n",)), "e": (1.0, 2.0)}
    assert text.cleaned(value) == {
        "a\N{REPLACEMENT CHARACTER}[31m": ("b\N{REPLACEMENT CHARACTER}c", 1.5, ("d ",)),
        "e": (1.0, 2.0),
    }


def test_options_read_as_a_person_writes_them() -> None:
    assert text.plain({"crop": [224, 224], "mean": None, "ok": False}) == "crop: 224, 224, mean: none, ok: no"
    assert text.plain("sha256:" + "9a" * 32) == "sha256:9a9a9a9a9a9a…"
