"""A gate's verdict as a CI log shows it: the verdict first, one line for each number, what to do last."""

from __future__ import annotations

import textwrap
from typing import Final

from mlopt.gate.result import NAN, Check, GateResult
from mlopt.measurement import Interval
from mlopt.report import text

WORDS: Final = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
HEADS: Final = ("metric", "baseline", "candidate", "change", "allowed", "verdict")
SLOWER_HEADS: Final = ("layer", "operators", "baseline", "candidate", "more")
SLOWER: Final = (
    "Layers that take most more, under the runtime's profiler in one process of each (a place to look: no verdict "
    "comes of it):"
)
_LEFT: Final = (0, 5)
_COLORS: Final = {"pass": "32", "fail": "31;1", "inconclusive": "33"}


def headline(result: GateResult) -> str:
    """One sentence that says it all.

    `FAIL: net.onnx against base.onnx: latency-p50 +11.8 %`
    """
    one, other = result.candidate.name, result.baseline.name
    if result.verdict == "pass":
        return f"{WORDS['pass']}: {one} is not worse than {other} by more than {result.profile} allows"
    bad = [check for check in result.checks if check.verdict == result.verdict]
    told = ", ".join(f"{name_of(check)} {_short(check)}".strip() for check in bad) or "nothing could be compared"
    if result.verdict == "fail":
        return f"{WORDS['fail']}: {one} against {other}: {told}"
    return f"{WORDS['inconclusive']}: {one} against {other}: undecided are {told}"


def to_terminal(result: GateResult, *, width: int, color: bool) -> str:
    """Text for a terminal of `width` columns; the least wanted columns go where it is narrow."""
    result = text.cleaned(result)
    lines = [_painted(line, result.verdict, color) for line in textwrap.wrap(headline(result), width)]
    lines += ["", *_table(result, width, color), ""]
    if result.slower:
        lines += [*_hanging(SLOWER, width), *_slower(result, width), ""]
    lines += [line for note in notes(result) for line in _hanging(note, width)]
    return "\n".join(lines)


def rows(result: GateResult) -> list[tuple[str, ...]]:
    """The cells under `HEADS`, one row for each check."""
    return [
        (
            name_of(check),
            value(check, check.baseline),
            value(check, check.candidate),
            change(check),
            allowed(check),
            WORDS[check.verdict],
        )
        for check in result.checks
    ]


def slower_rows(result: GateResult) -> list[tuple[str, ...]]:
    """The cells under `SLOWER_HEADS`, one row for each layer."""
    return [
        (
            one.layer,
            one.operators,
            text.seconds(one.baseline),
            text.seconds(one.candidate),
            f"+{text.seconds(one.candidate - one.baseline)}",
        )
        for one in result.slower
    ]


def notes(result: GateResult) -> list[str]:
    """How it was measured, why something is as it is, what was not compared, and what to do next."""
    found = [f"{name_of(check)}: {check.note}" for check in result.checks if check.note]
    found += [f"not compared: {one.metric}, {one.reason}" for one in result.not_compared]
    timing = result.timing
    if timing and timing.pairs:
        control = f"a second copy of the baseline read {_beside(timing.control)}" if timing.control else ""
        found.append(
            f"measured on {timing.device}, {timing.threads} thread{'s' if timing.threads > 1 else ''}, batch "
            f"{timing.batch}, {timing.pairs} mirrored pairs of rounds in {timing.runs} "
            f"run{'s' if timing.runs > 1 else ''}, {timing.seconds:.1f} s; {control}".rstrip("; ")
        )
    if result.verdict == "inconclusive":
        found.append(_NEXT)
    return found


_NEXT: Final = (
    "next: run again on a quieter machine, give more time (--seconds) or samples, or raise the margin in [gate] of the "
    "profile"
)


def name_of(check: Check) -> str:
    return check.metric if check.kind == "regression" else f"{check.metric} (budget)"


def value(check: Check, number: float | None) -> str:
    """A number of a check, in its unit."""
    if number is None:
        return ""
    if check.unit == "seconds":
        return text.seconds(number)
    if check.unit == "bytes":
        return text.size(number)
    return text.percent(number) if check.unit == "share" else f"{number:,.6g}".replace(",", " ")


def change(check: Check) -> str:
    """By how much the candidate is larger, with its interval."""
    if check.kind == "budget":
        return ""
    if check.unit == "share":
        return f"{text.points(check.change)} lost" if check.change else ""
    if check.change:
        return f"{signed(check.change.value)} [{_end(check.change.low)}, {_end(check.change.high)}]"
    if check.baseline and check.candidate is not None:
        return signed(check.candidate / check.baseline - 1)
    return ""


def allowed(check: Check) -> str:
    """The margin, or the limit of a budget."""
    if check.kind == "budget":
        least = check.metric.startswith("min-") or check.metric == "throughput"
        return f"{'≥' if least else '≤'} {value(check, check.margin)}"
    if check.unit == "share":
        return f"{check.margin * 100:g} pt"
    return "none more" if check.metric == NAN else f"+{check.margin * 100:g} %"


def signed(share: float) -> str:
    """A share as percent with its sign.

    >>> signed(0.0512), signed(-0.5), signed(0.0)
    ('+5.1 %', '-50.0 %', '0.0 %')
    """
    shown = f"{share * 100:.1f}"
    return f"{'+' if share > 0 and float(shown) else ''}{'0.0' if not float(shown) else shown} %"


def _short(check: Check) -> str:
    told = change(check) or value(check, check.candidate)
    return told.partition(" [")[0]


def _end(share: float) -> str:
    if share <= -1:
        return "…"
    return signed(share).removesuffix(" %") if share < 10 else "…"


def _beside(control: Interval) -> str:
    return f"{signed(control.value)} [{_end(control.low)}, {_end(control.high)}] beside it"


def _table(result: GateResult, width: int, color: bool) -> list[str]:
    """All columns where they fit, then without the interval, then without the baseline's and the candidate's values."""
    cells = [HEADS, *rows(result)]
    for kept in ((0, 1, 2, 3, 4, 5), (0, 2, 3, 4, 5), (0, 3, 4, 5), (0, 3, 5), (0, 5)):
        picked = [[row[column] for column in kept] for row in cells]
        widths = [max(len(row[column]) for row in picked) for column in range(len(kept))]
        if sum(widths) + 2 * len(kept) <= width or kept == (0, 5):
            break
    lines = []
    for number, row in enumerate(picked):
        shown = [
            cell.ljust(size) if kept[column] in _LEFT else cell.rjust(size)
            for column, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(shown).rstrip()
        kind = result.checks[number - 1].verdict if number else ""
        lines.append(_painted(line, kind, color and kind != "pass"))
    return lines


def _slower(result: GateResult, width: int) -> list[str]:
    """The operators go where it is narrow."""
    cells = [SLOWER_HEADS, *slower_rows(result)]
    for kept in ((0, 1, 2, 3, 4), (0, 2, 3, 4)):
        widths = [max(len(row[column]) for row in cells) for column in kept]
        if sum(widths) + 2 * len(kept) <= width:
            break
    return [
        "  ".join(
            row[column].ljust(size) if column < 2 else row[column].rjust(size)
            for column, size in zip(kept, widths, strict=True)
        ).rstrip()
        for row in cells
    ]


def _hanging(note: str, width: int) -> list[str]:
    return textwrap.wrap(note, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _painted(line: str, kind: str, color: bool) -> str:
    code = _COLORS.get(kind, "2")
    return f"\x1b[{code}m{line}\x1b[0m" if color else line
