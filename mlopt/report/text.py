"""Numbers as people read them: every rendering of a report formats through here, so that no two disagree."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Final, TypeGuard, TypeVar

from mlopt.measurement import Interval, Starts

ABSENT: Final = "–"
_DIGEST: Final = re.compile("sha256:[0-9a-f]{64}")

T = TypeVar("T")


def seconds(value: float | None) -> str:
    """A time with three digits and the unit that fits.

    >>> seconds(0.00231), seconds(0.99999), seconds(192.0)
    ('2.31 ms', '1.00 s', '3 min 12 s')
    """
    if not _finite(value):
        return ABSENT
    if abs(value) >= 119.5:
        minutes, rest = divmod(round(value), 60)
        return f"{minutes} min {rest:02} s"
    return _scaled(value, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)))


def starts(found: Starts) -> str:
    """What fresh processes take, at most: where they are enough for a bound."""
    return (
        f"loads within {seconds(found.load_time.high)} and peaks within {size(found.peak_memory.high)} of memory (95 % "
        f"bounds of the medians of {found.processes} fresh processes)"
    )


def size(value: float | None) -> str:
    """Bytes in decimal units, as disks and registries count them.

    >>> size(4_934_112), size(999), size(0)
    ('4.93 MB', '999 B', '0 B')
    """
    if not _finite(value):
        return ABSENT
    if abs(value) < 1000:
        return f"{value:.0f} B"
    return _scaled(value, (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def rounded(shown: str) -> str:
    """A formatted number without the zeros that end its fraction: for tick marks, which are round.

    >>> rounded("2.00 ms"), rounded("47.5 %"), rounded("100 ms")
    ('2 ms', '47.5 %', '100 ms')
    """
    number, space, unit = shown.partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + space + unit


def percent(value: float | None) -> str:
    """A fraction of one as percent.

    >>> percent(0.48903), percent(0.99973), percent(1.0)
    ('48.9 %', '99.97 %', '100.0 %')
    """
    if not _finite(value):
        return ABSENT
    digits = 2 if 0.9995 <= value < 1 else 1  # what is not all must not round to all
    return f"{value * 100:.{digits}f} %"


def points(value: Interval | float | None) -> str:
    """A difference of two fractions in percentage points, with its sign and interval.

    >>> points(Interval(0.012, -0.004, 0.028, "paired"))
    '+1.2 pt [-0.4, +2.8]'
    """
    if isinstance(value, Interval):
        return f"{points(value.value)} [{_signed(value.low)}, {_signed(value.high)}]"
    return f"{_signed(value)} pt" if _finite(value) else ABSENT


def times(value: Interval | float | None) -> str:
    """A ratio, with its interval.

    >>> times(Interval(2.741, 2.699, 2.788, "rounds"))
    '2.74× [2.70, 2.79]'
    """
    if isinstance(value, Interval):
        return f"{times(value.value)} [{_ratio(value.low)}, {_ratio(value.high)}]"
    return f"{_ratio(value)}×" if _finite(value) else ABSENT


def share(value: Interval | None) -> str:
    """A fraction with its interval, in percent.

    >>> share(Interval(0.953, 0.93, 0.971, "Wilson"))
    '95.3 % [93.0, 97.1]'
    """
    if value is None:
        return ABSENT
    return f"{percent(value.value)} [{value.low * 100:.1f}, {value.high * 100:.1f}]"


def rate(value: float | None) -> str:
    """Samples per second.

    >>> rate(433.4), rate(12345.0)
    ('433 /s', '12 300 /s')
    """
    if not _finite(value):
        return ABSENT
    if abs(value) < 1000:
        return f"{_three_digits(value)} /s"
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.0f} /s".replace(",", " ")


def operations(value: float | None) -> str:
    """How many operations, a multiply and an add counted as two.

    >>> operations(5_619_712), operations(0)
    ('5.62 Mop', '0 op')
    """
    if not _finite(value):
        return ABSENT
    return _scaled(value, (("Gop", 1e9), ("Mop", 1e6), ("kop", 1e3))) if abs(value) >= 999.5 else f"{value:.0f} op"


def speed(value: float | None) -> str:
    """Operations per second.

    >>> speed(156.7e9), speed(1.5329e12)
    ('157 GOPS', '1.53 TOPS')
    """
    if not _finite(value):
        return ABSENT
    return _scaled(value, (("TOPS", 1e12), ("GOPS", 1e9), ("MOPS", 1e6), ("kOPS", 1e3), ("OPS", 1.0)))


def decibel(value: float | None) -> str:
    """A ratio in decibel; an infinite one means that there is no difference at all.

    >>> decibel(31.234), decibel(math.inf)
    ('31.2 dB', 'identical')
    """
    if value is not None and math.isinf(value) and value > 0:
        return "identical"
    return f"{value:.1f} dB" if _finite(value) else ABSENT


def cosine(value: float | None) -> str:
    """A cosine, with as many digits as it takes not to call a difference none.

    >>> cosine(0.9971), cosine(0.99999871), cosine(1.0)
    ('0.9971', '0.9999987', '1')
    """
    if not _finite(value):
        return ABSENT
    if value >= 1 - 5e-10:
        return "1"
    return f"{value:.{min(9, max(4, 1 - math.floor(math.log10(abs(1 - value)))))}f}"


def difference(value: float | None) -> str:
    """An absolute or relative difference.

    >>> difference(2.1e-5), difference(0.0)
    ('2.1e-05', '0')
    """
    if not _finite(value):
        return ABSENT if value is None or math.isnan(value) else "infinite"
    return f"{value:.2g}"


def count(value: float | None) -> str:
    """A whole number with groups of three digits.

    >>> count(1248424)
    '1 248 424'
    """
    return f"{value:,.0f}".replace(",", " ") if _finite(value) else ABSENT


def digest(value: str) -> str:
    """The first twelve digits: enough for a person to compare.

    >>> digest("sha256:" + "ab" * 32)
    'abababababab'
    """
    return value.removeprefix("sha256:")[:12]


def plain(value: object) -> str:
    """An option's value as a person would write it.

    >>> plain(True), plain(("a", 1)), plain({"b": None})
    ('yes', 'a, 1', 'b: none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return f"sha256:{digest(value)}…"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def listed(names: Iterable[str], *, last: str = "and") -> str:
    """Names as a sentence holds them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    some = list(names)
    return f"{', '.join(some[:-1])} {last} {some[-1]}" if len(some) > 1 else "".join(some)


def cleaned(value: T) -> T:
    """The same value with every text in it made safe to show: no control characters, no reversed reading order.

    A model's name comes from a stranger's file; on a terminal an escape sequence in it would be obeyed.
    """
    return _cleaned(value)  # type: ignore[no-any-return]


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(_visible(character) for character in value) if not value.isprintable() else value
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _cleaned(getattr(value, field.name)) for field in fields(value)})
    if isinstance(value, Mapping):
        return {_cleaned(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return value if _numbers(value) else tuple(_cleaned(item) for item in value)
    return value


def _numbers(values: Sequence[Any]) -> bool:
    return bool(values) and all(type(value) in (float, int) for value in values)


def _visible(character: str) -> str:
    if character in "\n\t":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(character).startswith("C") else character


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scaled(value: float, units: Sequence[tuple[str, float]]) -> str:
    """In the largest unit that gives one or more *after* rounding, so that 999.9 ms is 1.00 s."""
    for unit, factor in units:
        if abs(value) / factor >= 0.9995:
            return f"{_three_digits(value / factor)} {unit}"
    unit, factor = units[-1]
    return f"{_three_digits(value / factor)} {unit}"


def _three_digits(value: float) -> str:
    """Three significant digits, and never an exponent."""
    magnitude = abs(value)
    digits = 2 if magnitude < 9.995 else 1 if magnitude < 99.95 else 0
    return f"{value:.{digits}f}"


def _ratio(value: float) -> str:
    return _three_digits(value) if math.isfinite(value) else ABSENT


def _signed(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ABSENT
    rounded = round(value * 100, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}"
