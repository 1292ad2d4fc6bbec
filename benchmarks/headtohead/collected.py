"""Everything kept under out/head-to-head/ as one document: what is published, and all that the table is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any, Final

from watched import machine

from headtohead.cases import CASES, Case
from headtohead.environments import refusal
from headtohead.judging import AGAIN, SHIPS, against, openvino_missing
from headtohead.tools import MAX_DROP, TOOLS, Kept, kept

SCHEMA: Final = 1
_ACCURACY: Final = ("top1", "baseline_top1", "drop", "agreement", "sqnr", "samples")
_FACTS: Final = (
    "tool", "variant", "runtime", "failure", "seconds", "peak_memory", "load", "bytes", "measuring", "chosen",
    "precision", "evaluations", "samples_evaluated", "notes", "tried",
)  # fmt: skip
Row = dict[str, Any]


def collect(out: Path, published: Mapping[str, Any]) -> dict[str, Any]:
    """All that was kept by this run and those before it, and what is missing with its reason.

    A model that `out` has nothing of stays as it was `published`: results of one model, and only those, were taken
    beside each other.
    """
    models: dict[str, Any] = {}
    versions: dict[str, dict[str, str]] = {tool: dict(of) for tool, of in published.get("versions", {}).items()}
    for name, case in CASES.items():
        home = out / "head-to-head" / name
        found = [one for one in map(kept, sorted(home.iterdir()) if home.is_dir() else ()) if one]
        if found:
            models[name] = _model(case, home, found)
        elif before := published.get("models", {}).get(name):
            models[name] = before
        for one in found:
            versions.setdefault(one.facts["tool"], {}).update(one.facts.get("versions", {}))
    return {
        "schema": SCHEMA,
        "command": "python benchmarks/head_to_head.py",
        "machine": machine(),
        "max_drop": MAX_DROP,
        "versions": versions,
        "skipped": _missing(out, models),
        "models": models,
    }


def _missing(out: Path, models: Mapping[str, Any]) -> dict[str, str]:
    missing = {"OpenVINO as a runtime": why} if (why := openvino_missing()) else {}
    tools = {row["tool"] for model in models.values() for row in model["rows"]}
    for tool in TOOLS.values():
        if tool.name not in tools:
            missing[tool.shown] = refusal(tool.name, out / "peers") or "not run yet"
    return missing | {name: "not run yet" for name in CASES if name not in models}


def _model(case: Case, home: Path, found: list[Kept]) -> dict[str, Any]:
    latency = json.loads((home / "latency.json").read_text()) if (home / "latency.json").is_file() else None
    rows = [_row(one, latency) for one in found]
    best = best_peer(rows)
    int8 = our_int8(rows, (home / "model.onnx").stat().st_size)
    facts = {
        "taken": date.fromtimestamp(max(_moment(one) for one in found)).isoformat(),
        "machine": machine(),
        "trained": case.trained,
        "attention": case.attention,
        "flatters": case.flatters,
        **json.loads((home / "ready.json").read_text()),
        "rows": rows,
        "best_peer": best["name"] if best else None,
        "int8": int8["name"] if int8 else None,
        "int8_against_best_peer": None,
        "latency": None,
    }
    if best and int8 and case.trained:
        by_name = {one.name: one for one in found}
        facts["int8_against_best_peer"] = against(by_name[int8["name"]], by_name[best["name"]], home)
    if latency:
        facts["latency"] = {key: latency[key] for key in ("rounds", "threads", "load", "failures")}
        facts["latency"]["again"] = latency["measured"][AGAIN]["speedup"]
        facts["beside_ships"] = latency.get("beside_ships", {})
        facts["openvino"] = {
            name.partition(": ")[2]: one["speedup"]
            for name, one in latency["measured"].items()
            if name.startswith("openvino: ")
        }
    return facts


def _moment(one: Kept) -> float:
    return (one.folder / "result.json").stat().st_mtime


def _row(one: Kept, latency: Mapping[str, Any] | None) -> Row:
    row: Row = {"name": one.name, **{key: one.facts[key] for key in _FACTS if one.facts.get(key) is not None}}
    row |= {key: one.facts.get("accuracy", {}).get(key) for key in _ACCURACY}
    row["expected"] = one.facts.get("expected")
    measured = latency["measured"].get(one.name) if latency else None
    row["speedup"] = measured["speedup"] if measured else None
    row["memory_running"] = measured["peak_memory"] if measured else None
    return row


def best_peer(rows: list[Row]) -> Row | None:
    """The peer's int8 variant that loses least: in top-1 where there are labels, then in signal to noise.

    One whose answers are the original's, bit by bit, has gone back to floating point everywhere.
    """
    peers = [row for row in rows if row["tool"] != "mlopt" and row["samples"] and row["sqnr"] is not None]
    return _least_lost([row for row in peers if row.get("precision", "int8") == "int8"])


def our_int8(rows: list[Row], original: int) -> Row | None:
    """What ships, where that is int8; else the candidate that loses least of those that are int8 for the most part,
    which is told by a file of less than half the `original`'s bytes."""
    int8 = [row for row in rows if row["tool"] == "mlopt" and row["samples"] and row.get("precision") == "int8"]
    ships = [row for row in int8 if row["name"] == SHIPS]
    return _least_lost(ships or [row for row in int8 if row["bytes"] < original / 2])


def _least_lost(rows: list[Row]) -> Row | None:
    return min(rows, key=lambda row: (row["drop"]["value"] if row["drop"] else 0.0, -_noise(row)), default=None)


def _noise(row: Row) -> float:
    """None stands for infinity, which JSON cannot hold."""
    return float("inf") if row["sqnr"] is None else float(row["sqnr"])
