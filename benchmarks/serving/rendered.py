"""The published table of servers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any, Final

_BUSY: Final = (
    "**Others worked on it**: rates and tails are a busy machine's, and *processor* is what that changes least.",
)


def best_rate(row: Mapping[str, Any], limit: float) -> tuple[float, int] | None:
    """The highest rate whose 99th percentile keeps the limit, middle of the rounds, and with how many clients."""
    kept = []
    for clients, rounds in row.get("loads", {}).items():
        if statistics.median(load["p99"] for load in rounds) <= limit and not any(load["others"] for load in rounds):
            kept.append((statistics.median(load["rate"] for load in rounds), int(clients)))
    return max(kept, default=None)


def _processor(row: Mapping[str, Any]) -> float:
    """Seconds of processor time for one answer, over all loads: what a busy machine changes least."""
    loads = [load for rounds in row["loads"].values() for load in rounds]
    return float(sum(load["processor"] for load in loads) / max(sum(load["answered"] for load in loads), 1))


def render(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    rounds, before, after = facts["rounds"], facts["load_before"], facts["load_after"]
    lines = [
        "# Servers beside each other",
        "",
        f"{facts['date']}, {facts['processor']}, {facts['cores']} virtual cores: the server on one, the client on the",
        f"rest. One process, one thread of ONNX Runtime. {rounds} rounds of {facts['seconds']:g} s for each number of",
        "clients (1 to 32), servers taking turns; a client asks again as soon as it is answered, as Open Inference",
        "Protocol in JSON.",
        f"Load of the machine: {before:.1f} before, {after:.1f} after, its own among it.",
        *(_BUSY if before > facts["cores"] else ()),
        "*Processor* is the time of a core for an answer. Compare rows, not days. Made by `make bench-server`.",
        "",
    ]
    for case in facts["cases"]:
        lines += _case(case)
    return "\n".join(lines) + "\n"


def _case(case: Mapping[str, Any]) -> list[str]:
    raw, limit = case["raw"], case["limit"]
    ours = best_rate(case["servers"][0], limit)
    columns = ["requests/s", "clients", "mlopt's rate", "processor"]
    columns += ["1 client: median", "p99 over raw", "ready", "memory"]
    lines = [
        f"## {case['name'].capitalize()}: {case['what']}",
        "",
        f"Inference alone (raw): median {raw['median'] * 1e3:.2f} ms, p99 {raw['p99'] * 1e3:.2f} ms. The rate is the",
        f"best whose p99 stays within {limit * 1e3:.0f} ms.",
        "",
        f"| Server | {' | '.join(columns)} |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    skipped = []
    for row in case["servers"]:
        if "skipped" in row:
            skipped.append(f"* {row['name']}: {row['skipped'].strip().splitlines()[-1]}")
            continue
        rate, alone = best_rate(row, limit), row["loads"]["1"]
        median = statistics.median(load["median"] for load in alone)
        over = statistics.median(load["p99"] for load in alone) - raw["p99"]
        share = f"{ours[0] / rate[0]:#.2g}×" if rate and ours else "–"
        lines.append(
            f"| {row['name']} | {f'{rate[0]:.0f} | {rate[1]}' if rate else 'none keeps it | –'} | {share} "
            f"| {_processor(row) * 1e3:.2f} ms | {median * 1e3:.2f} ms | {over * 1e3:.2f} ms "
            f"| {row['start']:.2f} s | {row['memory'] / 1e6:.0f} MB |"
        )
    return [*lines, "", *(["Not measured:", "", *skipped, ""] if skipped else [])]
