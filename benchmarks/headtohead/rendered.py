"""The published table, from the published JSON alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from headtohead.goals import goals, noise, points
from headtohead.tools import TOOLS

SHOWN: Final[Mapping[str, str]] = {"mlopt": "**mlopt**", **{tool.name: tool.shown for tool in TOOLS.values()}}
_FIRST: Final = ("mlopt.ships", "mlopt.budget", "mlopt.no-samples")
_MARK: Final = {True: "reached", False: "**not reached**", None: "not measured here"}


def render(facts: Mapping[str, Any]) -> str:
    lines = [
        "# Head to head",
        "",
        f"`{facts['command']}`",
        "",
        "How it is measured and how to read it: [docs](../../docs/head-to-head.md).",
        "",
        "## Against what was to be reached",
        "",
        "| line | found | |",
        "|---|---|---|",
        *(f"| {goal.line} | {goal.found} | {_MARK[goal.reached]} |" for goal in goals(facts)),
        "",
        *_left_out(facts),
    ]
    for name, model in facts["models"].items():
        lines += ["", *_model(name, model)]
    lines += ["", "## Versions", ""]
    for tool, versions in facts["versions"].items():
        lines.append(f"* {_plain(tool)}: " + ", ".join(f"{name} {number}" for name, number in sorted(versions.items())))
    return "\n".join(lines) + "\n"


def _left_out(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["skipped"]:
        yield "Left out:"
        yield ""
        for what, why in facts["skipped"].items():
            yield f"* {_plain(what)}: {why}"


def _model(name: str, model: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    trained = model["trained"]
    what = f"Trained. {model['evaluation']} samples to evaluate on" if trained else "Random weights"
    told = f"{what}, {model['calibration']} to calibrate with{_flatters(model)}.{_latency(model)}{_against(model)}"
    yield f"{told} Taken on {model['taken']}, {model['machine']}."
    yield ""
    how = "drop, points [95 %]; by chances" if trained else "agreement"
    yield f"| tool | variant | {how} | SQNR | size | speed-up [95 %] | quantising | peak memory of it |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in sorted(model["rows"], key=_order):
        yield f"| {SHOWN.get(row['tool'], row['tool'])} | {' | '.join(_cells(row, trained))} |"
    for other, speedup in model.get("openvino", {}).items():
        yield f"| OpenVINO runs | {other} | | | | {_times(speedup)} | | |"


def _order(row: Mapping[str, Any]) -> tuple[object, ...]:
    """mlopt first, and of it what ships; the rest by name."""
    name = row["name"]
    return (row["tool"] != "mlopt", _FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _cells(row: Mapping[str, Any], trained: bool) -> list[str]:
    if row.get("failure"):
        return [row["variant"], f"failed: {_cell(row['failure'])}", "", "", "", "", ""]
    answers = row["drop"] if trained else row["agreement"]
    shown = "" if answers is None else points(answers) if trained else f"{100 * answers['value']:.0f} %"
    if expected := row.get("expected"):
        shown += f"; {100 * expected['value']:+.2f} ± {100 * expected['error']:.2f}"
    return [
        row["variant"] + (f" ({row['chosen']})" if row.get("chosen") else ""),
        shown,
        noise(row["sqnr"]) if row["samples"] else "",
        f"{row['bytes'] / 1e6:.2f} MB",
        _times(row["speedup"]),
        _seconds(row),
        f"{row['peak_memory'] / 1e6:.0f} MB" if row.get("peak_memory") else "",
    ]


def _seconds(row: Mapping[str, Any]) -> str:
    if row.get("seconds") is None:
        return "in the walk above" if row["tool"] == "mlopt" else ""
    extra = f", of it timing {row['measuring']:.0f}" if row.get("measuring") is not None else ""
    extra += f", {row['evaluations']:g} evaluations" if row.get("evaluations") is not None else ""
    extra += f", at load {row['load']:.1f}" if row.get("load") is not None else ""
    return f"{row['seconds']:.1f} s{extra}"


def _times(speedup: Mapping[str, float] | None) -> str:
    return f"{speedup['value']:.2f}× [{speedup['low']:.2f}, {speedup['high']:.2f}]" if speedup else ""


def _flatters(model: Mapping[str, Any]) -> str:
    return f"; {model['flatters']}" if model["flatters"] else ""


def _latency(model: Mapping[str, Any]) -> str:
    latency = model["latency"]
    if not latency:
        return ""
    load = " to ".join(f"{value:.1f}" for value in latency["load"])
    failed = "".join(f" {name} could not be timed: {_cell(why)}." for name, why in latency["failures"].items())
    return (
        f" Speed-up over ONNX Runtime fp32, batch 1, {latency['threads']} thread, {latency['rounds']} interleaved "
        f"rounds; the original against itself {_times(latency['again'])}; load of the machine {load}.{failed}"
    )


def _against(model: Mapping[str, Any]) -> str:
    if not model["best_peer"]:
        return ""
    behind = model["int8_against_best_peer"]
    paired = f"; {model['int8']} is behind it by {points(behind)} points" if behind else ""
    return f" The peer that loses least: {model['best_peer']}{paired}."


def _plain(tool: str) -> str:
    return SHOWN.get(tool, tool).strip("*")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
