"""Quantities with their unit: read from declarations ("33ms", "512MiB", "0.5%"), shown to people.

A bare number is refused where a unit matters: `latency = 33` has meant seconds to one reader and
milliseconds to the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NewType

Bytes = NewType("Bytes", int)
Seconds = NewType("Seconds", float)
Fraction = NewType("Fraction", float)  # of one: 0.005 is half a percent
Decibel = NewType("Decibel", float)
BytesPerSecond = NewType("BytesPerSecond", float)
Hertz = NewType("Hertz", float)
Watts = NewType("Watts", float)
OpsPerSecond = NewType("OpsPerSecond", float)  # a multiply and an add are two

_NUMBER: Final = r"[0-9]+(?:\.[0-9]+)?"
_DECIMAL: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZES: Final = _DECIMAL | {"KB": 10**3} | _BINARY


@dataclass(frozen=True, slots=True)
class Unit:
    """How a kind of quantity is written: factor of each suffix, an example, and whether only whole results count."""

    noun: str
    example: str
    suffixes: Mapping[str, float]
    whole: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression that every accepted text matches, for JSON Schema."""
        longest_first = sorted(self.suffixes, key=len, reverse=True)
        return rf"^{_NUMBER} ?({'|'.join(re.escape(suffix) for suffix in longest_first)})$"

    def parse(self, text: str) -> float:
        """Raises `ValueError` that says how to write it."""
        match = re.fullmatch(rf"({_NUMBER}) ?(\S+)", text.strip())
        if not match or match[2] not in self.suffixes:
            raise ValueError(
                f"{text!r} is not {self.noun}: write it like {self.example!r} ({', '.join(self.suffixes)})"
            )
        value = float(match[1]) * self.suffixes[match[2]]
        return round(value) if self.whole else value


UNITS: Final[Mapping[Any, Unit]] = {
    Bytes: Unit("a size", "512MiB", _SIZES, whole=True),
    Seconds: Unit("a duration", "33ms", {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60}),
    Fraction: Unit("a share", "0.5%", {"%": 0.01}),
    Decibel: Unit("a level", "20dB", {"dB": 1}),
    BytesPerSecond: Unit("a bandwidth", "68GB/s", {f"{name}/s": factor for name, factor in _DECIMAL.items()}),
    Hertz: Unit("a frequency", "1.5GHz", {"Hz": 1, "kHz": 1e3, "MHz": 1e6, "GHz": 1e9}),
    Watts: Unit("a power", "15W", {"mW": 1e-3, "W": 1, "kW": 1e3}),
    OpsPerSecond: Unit(
        "a rate of operations", "67TOPS", {"GOPS": 1e9, "TOPS": 1e12, "POPS": 1e15, "GFLOPS": 1e9, "TFLOPS": 1e12}
    ),
}


def parse(kind: Any, value: object) -> float:
    """A value of a declaration as the quantity `kind` (one of `UNITS`). Raises `ValueError` that says how to write it.

    >>> parse(Seconds, "150us"), parse(Bytes, "40MB"), parse(Fraction, "0.5%"), parse(Fraction, 0.005)
    (0.00015, 40000000, 0.005, 0.005)
    """
    unit = UNITS[kind]
    if kind is Fraction:
        return _fraction(unit, value)
    if isinstance(value, str):
        return unit.parse(value)
    raise ValueError(f"{value!r} has no unit: write {unit.noun} like {unit.example!r}")


def _fraction(unit: Unit, value: object) -> float:
    if isinstance(value, str):
        number = round(unit.parse(value), 12)  # 2 times 0.01 must be what 0.02 is
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    else:
        raise ValueError(f"{value!r} is not a share: write it like '0.5%' or 0.005")
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1: write a share like '0.5%' or 0.005")
    return number


def format_bytes(value: int) -> str:
    """Decimal units, as disks and registries count; binary ones where only they are whole.

    >>> format_bytes(4_934_112), format_bytes(8 * 2**30), format_bytes(40_000_000), format_bytes(0)
    ('4.93 MB', '8 GiB', '40 MB', '0 B')
    """
    for name in ("TiB", "GiB", "MiB"):
        count, rest = divmod(value, int(_SIZES[name]))
        if count and not rest:
            return f"{count} {name}"
    return _scaled(value, _DECIMAL)


def format_seconds(value: float) -> str:
    """Three digits and the unit that fits.

    >>> format_seconds(0.033), format_seconds(0.00015), format_seconds(2), format_seconds(192)
    ('33 ms', '150 µs', '2 s', '3 min 12 s')
    """
    if value >= 119.5:
        minutes, seconds = divmod(round(value), 60)
        return f"{minutes} min {seconds} s"
    return _scaled(value, {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1})


def format_percent(value: float) -> str:
    """A fraction of one as percent.

    >>> format_percent(0.95), format_percent(0.005), format_percent(0.99973)
    ('95 %', '0.5 %', '99.97 %')
    """
    return f"{_plain(value * 100, 2)} %"


def format_points(value: float) -> str:
    """A difference of two fractions, in percentage points.

    >>> format_points(0.005), format_points(-0.0123)
    ('0.5 points', '-1.23 points')
    """
    return f"{_plain(value * 100, 2)} points"


def format_quantity(kind: Any, value: float) -> str:
    """Any quantity of `UNITS` for people.

    >>> format_quantity(Hertz, 1.5e9), format_quantity(BytesPerSecond, 102.4e9), format_quantity(OpsPerSecond, 2.07e15)
    ('1.5 GHz', '102 GB/s', '2070 TOPS')
    """
    if kind is Bytes:
        return format_bytes(int(value))
    if kind is Seconds:
        return format_seconds(value)
    if kind is Fraction:
        return format_percent(value)
    if kind is Decibel:
        return f"{value:g} dB"
    scales: Mapping[Any, Mapping[str, float]] = {
        BytesPerSecond: {"MB/s": 1e6, "GB/s": 1e9},
        Hertz: {"MHz": 1e6, "GHz": 1e9},
        Watts: {"W": 1},
        OpsPerSecond: {"GOPS": 1e9, "TOPS": 1e12},
    }
    return _scaled(value, scales[kind])


def _scaled(value: float, factors: Mapping[str, float]) -> str:
    """`factors` in rising order; the largest that leaves at least one, after rounding to three digits."""
    chosen, number = next(iter(factors)), value / next(iter(factors.values()))
    for name, factor in factors.items():
        if abs(float(f"{value / factor:.3g}")) >= 1:
            chosen, number = name, value / factor
    digits = f"{number:.3g}"
    return f"{float(digits):g} {chosen}" if "e" not in digits else f"{round(number)} {chosen}"


def _plain(value: float, digits: int) -> str:
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return text if text not in ("-0", "") else "0"
