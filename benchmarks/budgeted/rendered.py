"""The table of `benchmarks/budgets.py`, from what was kept as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

_BUDGETS: Final = {"max_drop": "drop", "max_latency": "latency", "max_memory": "memory", "max_size": "file size"}
_HEAD: Final = """\
# Are budgets kept?

`{command}`: {asked} requests with random budgets, seed {seed}. Every request bounds the drop of top-1 and one or more
of latency, memory and file size, each about what one of the candidates reaches ({recipes}).

The requests of a group share a model, a drop and one run of clocks ({groups} groups); the first of each model went
through the command `mlopt compile`, the others through the functions that it calls.

mlopt was given 60 % of the samples. What it shipped was judged by the other 40 %, which took part in nothing: their
drop, counted by the benchmark itself, is a violation when all of its 95 % interval is over the budget. Latency was
timed once more beside the original, and is taken as the model's part of what the original took when mlopt decided (the
machine was busy with other work); a violation is when all of that interval is over the budget. File size is what the
disk says; memory, measured again, has 5 % of room. What mlopt called infeasible is compared with every candidate's own
numbers; the nearest budget that it names is asked for, and must be answered with a model that keeps it.
"""


def render(facts: Mapping[str, Any]) -> str:
    requests = facts["requests"]
    recipes = ", ".join(facts["recipes"])
    groups = len({(request["model"], request["group"]) for request in requests})
    head = _HEAD.format(
        command=facts["command"], asked=len(requests), seed=facts["seed"], recipes=recipes, groups=groups
    )
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    models = dict.fromkeys(request["model"] for request in requests)
    rows = [_row(model, [one for one in requests if one["model"] == model]) for model in models]
    if len(models) > 1:
        rows.append(_row("all", requests))
    return "\n".join(
        [
            head,
            f"Machine: {facts['machine']}. {versions}.",
            "",
            "| model | requests | a variant | the original | infeasible | violations | over by the point estimate |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
            *_said("violations", requests),
            *_said("excess", requests),
            *_margins(requests),
            *_examples(requests),
            "",
        ]
    )


def _row(name: str, requests: Sequence[Mapping[str, Any]]) -> str:
    kinds = Counter(one["kind"] for one in requests)
    original = sum(1 for one in requests if one["kind"] == "ships" and one["winner"] == "baseline")
    cells = [
        *(name, len(requests), kinds["ships"] - original, original, kinds["infeasible"]),
        *(sum(1 for one in requests if one[what]) for what in ("violations", "excess")),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _said(what: str, requests: Sequence[Mapping[str, Any]]) -> list[str]:
    found = Counter(_BUDGETS.get(one, one) for request in requests for one in request[what])
    title = "Violations" if what == "violations" else "Over by the point estimate"
    return [f"{title}: {', '.join(f'{name} {count}' for name, count in found.items()) or 'none'}.", ""]


def _margins(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    held = [one for one in requests if "held_out" in one and one["winner"] != "baseline"]
    if not held:
        return []
    worst = max(held, key=lambda one: one["held_out"]["drop"] - one["limits"]["max_drop"])
    drop, limit = worst["held_out"]["drop"], worst["limits"]["max_drop"]
    return [
        f"The held-out drop that came nearest to its budget: {100 * drop:+.2f} points of {100 * limit:.1f} allowed "
        f"({worst['model']}, {worst['winner']}, {worst['held_out']['samples']} samples).",
        "",
    ]


def _examples(requests: Sequence[Mapping[str, Any]]) -> list[str]:
    said = (one["said"] for one in requests if one["kind"] == "infeasible" and one["by"] != "mlopt compile")
    spoken = list(dict.fromkeys(said))
    refused = spoken[:: max(1, len(spoken) // 4)][:4]
    return (
        ["What mlopt says of budgets that nothing keeps:", "", *(f"* {said}." for said in refused)] if refused else []
    )
