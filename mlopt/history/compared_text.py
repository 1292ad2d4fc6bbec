"""A comparison of two results as a terminal shows it: model by model, what differs first, what is not compared last."""

from __future__ import annotations

import textwrap
from typing import Final

from mlopt.history.compare import Comparison, Match, Pair
from mlopt.history.entry import Number
from mlopt.history.metrics import METRICS, shown
from mlopt.report import text

_HEADS: Final = ("", "A", "B", "change", "")


def to_terminal(found: Comparison, *, width: int) -> str:
    found = text.cleaned(found)
    blocks = [_match(match, width) for match in found.matches]
    for side, names in (("A", found.only_before), ("B", found.only_after)):
        if names:
            blocks.append(_wrapped(f"only in {side}: {', '.join(names)}", width))
    return "\n\n".join("\n".join(block) for block in blocks) or "neither holds a model"


def name_of(metric: str) -> str:
    """As a person says it: a page of two results has the baseline beside neither."""
    return {"top1": "top-1"}.get(metric, metric.replace("-", " "))


def change(pair: Pair) -> str:
    """By how much B is larger, with its interval where there is one."""
    if pair.difference:
        return text.points(pair.difference.value) + _interval(pair.difference, 0.0)
    if pair.ratio is None:
        return ""
    if pair.ratio.value == 1:
        return "same"
    return f"{(pair.ratio.value - 1) * 100:+.1f} %{_interval(pair.ratio, 1.0)}"


def word(pair: Pair) -> str:
    """`worse`, `better`, or `undecided` where the interval holds no change at all; empty where there is no interval,
    unless the number was counted."""
    if pair.worse is None:
        return ""
    estimate, none = (pair.ratio, 1.0) if pair.ratio else (pair.difference, 0.0)
    if METRICS[pair.metric].kind != "counted":
        if estimate is None or estimate.low is None or estimate.high is None:
            return ""
        if estimate.low <= none <= estimate.high:
            return "undecided"
    return "worse" if pair.worse else "better"


def _match(match: Match, width: int) -> list[str]:
    before, after = match.before, match.after
    names = before.name if before.name == after.name else f"{before.name} → {after.name}"
    same_bytes = "the same bytes" if before.digest == after.digest else "other bytes"
    lines = [f"{names}: {same_bytes}"]
    rows = [_HEADS, *(_row(pair) for pair in match.pairs)] if match.pairs else []
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(len(_HEADS))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3)), row[4]]
        lines.append(("  " + "  ".join(cells)).rstrip())
    for left in match.left:
        lines += _wrapped(f"  not compared: {', '.join(left.metrics)}: {left.reason}", width)
    return lines


def _row(pair: Pair) -> tuple[str, ...]:
    return (
        pair.metric,
        shown(pair.metric, pair.before.value),
        shown(pair.metric, pair.after.value),
        change(pair),
        word(pair),
    )


def _interval(number: Number, none: float) -> str:
    if number.low is None or number.high is None:
        return ""
    return f" [{(number.low - none) * 100:+.1f}, {(number.high - none) * 100:+.1f}]"


def _wrapped(line: str, width: int) -> list[str]:
    return textwrap.wrap(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
