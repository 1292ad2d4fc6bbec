"""Quantities: what is accepted, what is refused, and that what is shown can be trusted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlopt import units
from mlopt.units import UNITS, Bytes, BytesPerSecond, Decibel, Fraction, Hertz, OpsPerSecond, Seconds, Watts, parse


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Bytes, "512MiB", 512 * 2**20),
        (Bytes, "40MB", 40_000_000),
        (Bytes, "1.5kB", 1500),
        (Bytes, "16 GiB", 16 * 2**30),
        (Seconds, "33ms", 0.033),
        (Seconds, "2s", 2),
        (Seconds, "150us", 150e-6),
        (Seconds, "1min", 60),
        (Fraction, "0.5%", 0.005),
        (Fraction, "2%", 0.02),
        (Fraction, 0.005, 0.005),
        (Fraction, 1, 1),
        (Decibel, "30dB", 30),
        (BytesPerSecond, "102.4GB/s", 102.4e9),
        (Hertz, "1.43GHz", 1.43e9),
        (Watts, "7W", 7),
        (OpsPerSecond, "0.47TFLOPS", 0.47e12),
    ],
)
def test_a_quantity_is_read(kind: object, text: object, value: float) -> None:
    assert parse(kind, text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Seconds, 33),  # no unit
        (Seconds, "33"),
        (Seconds, "33 parsecs"),
        (Seconds, "-1ms"),
        (Seconds, ""),
        (Seconds, "1e3ms"),
        (Seconds, True),
        (Bytes, 512),
        (Bytes, "512 mib"),  # m is milli
        (Bytes, "MiB"),
        (Fraction, "150%"),
        (Fraction, 5),  # five percent, or five hundred?
        (Fraction, "0.5"),
        (Fraction, True),
        (Fraction, -0.1),
    ],
)
def test_a_quantity_that_could_be_misread_is_refused(kind: object, wrong: object) -> None:
    with pytest.raises(ValueError, match="write"):
        parse(kind, wrong)


def test_bytes_are_whole() -> None:
    assert parse(Bytes, "1.0000001kB") == 1000
    assert isinstance(parse(Bytes, "1.5GiB"), int)


@pytest.mark.parametrize("kind", list(UNITS))
def test_the_example_of_each_unit_is_accepted_and_matches_its_pattern(kind: object) -> None:
    unit = UNITS[kind]
    assert parse(kind, unit.example) > 0
    assert re.search(unit.pattern, unit.example)


@given(st.sampled_from(["ns", "us", "ms", "s", "min"]), st.integers(1, 10**6))
def test_pattern_and_parser_accept_the_same(suffix: str, number: int) -> None:
    text = f"{number}{suffix}"
    assert re.search(UNITS[Seconds].pattern, text)
    assert parse(Seconds, text) > 0


@given(st.integers(1, 10**15))
def test_what_is_shown_of_a_size_is_within_half_a_percent_of_it(value: int) -> None:
    number, suffix = units.format_bytes(value).split(" ")
    factor = UNITS[Bytes].suffixes[suffix]
    assert float(number) * factor == pytest.approx(value, rel=0.006)


@given(st.floats(1e-9, 1e5))
def test_what_is_shown_of_a_time_is_near_it(value: float) -> None:
    shown = units.format_seconds(value)
    if "min" in shown:
        minutes, seconds = re.findall(r"[0-9]+", shown)
        assert int(minutes) * 60 + int(seconds) == pytest.approx(value, abs=0.51)
    else:
        number, suffix = shown.split(" ")
        assert float(number) * UNITS[Seconds].suffixes[suffix] == pytest.approx(value, rel=0.006)


def test_rounding_moves_on_to_the_next_unit() -> None:
    assert units.format_seconds(0.99999) == "1 s"
    assert units.format_bytes(999_999) == "1 MB"
    assert units.format_points(-0.00001) == "0 points"
