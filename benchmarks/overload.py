"""Twice what a server can answer, for ten minutes: what it refuses, what it answers, and whether its memory grows.

    make overload     (or: python benchmarks/overload.py [--seconds 600] [--times 2])

Each server of mlopt's images is on one core, the client on the others. First eight clients that wait for their answers
find out how much it can do; then requests are due at so many times that rate, whatever becomes of those before.
Writes reports/published/overload.json, and the .md from it. Exits with 1 where a server died or answered a good request
with anything but 200 and the 503 of back-pressure.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.cases import CASES, Case, write_model
from serving.load import put, request
from serving.offered import offer
from serving.servers import SERVERS, Running, Server, running

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "overload.json"
CLIENTS = 8
OURS = tuple(server for server in SERVERS if server.peer is None)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=600.0, help="of each load  [default: %(default)s]")
    options.add_argument("--times", type=float, default=2.0, help="what it can answer  [default: %(default)s]")
    options.add_argument("--out", type=Path, default=ROOT / "out")
    said = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    (said.out / "peers").mkdir(parents=True, exist_ok=True)
    case = CASES[-1]  # of the small model the client's core is full before the native server's
    model = write_model(case, said.out.resolve() / "server" / case.name)
    os.sched_setaffinity(0, set(cores[:-1]) or {cores[0]})
    rows = []
    for server in OURS:
        with running(server, model, said.out.resolve() / "peers", core=cores[-1]) as found:
            if isinstance(found, str):
                sys.exit(f"{server.name}: {found}")
            rows.append(_row(server, found, case, said))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    facts = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cores": len(cores),
        "load": os.getloadavg()[0],
        "seconds": said.seconds,
        "times": said.times,
        "case": case.what,
        "servers": rows,
    }
    PUBLISHED.write_text(json.dumps(facts, indent=1) + "\n")
    PUBLISHED.with_suffix(".md").write_text(render(facts))
    sys.exit(0 if all(held(row) for row in rows) else 1)


def held(row: Mapping[str, Any]) -> bool:
    """Whether it lived, and every request got an answer that it may get."""
    return bool(row["alive"] and not row["cut"] and set(row["others"]) <= {"503"})


def _row(server: Server, found: Running, case: Case, said: argparse.Namespace) -> dict[str, Any]:
    asked = request(server.infer, case.body)
    put(found.port, asked, clients=2, seconds=2.0)
    alone = put(found.port, asked, clients=CLIENTS, seconds=5.0)
    memory: list[int] = []
    rate = said.times * alone.rate
    seen = offer(found.port, asked, rate=rate, seconds=said.seconds, each=lambda past: memory.append(found.memory()))
    tenth = max(1, len(memory) // 10)
    return {
        "name": server.name,
        "can": alone.rate,
        "offered": seen.sent / seen.seconds,
        "answered": len(seen.latencies) / seen.seconds,
        "median": seen.percentile(0.5),
        "p99": seen.percentile(0.99),
        "sent": seen.sent,
        "unsent": seen.unsent,
        "cut": seen.cut,
        "others": {str(status): count for status, count in sorted(seen.others.items())},
        "memory": {
            "early": statistics.median(memory[tenth : 2 * tenth] or memory),
            "late": statistics.median(memory[-tenth:]),
            "most": max(memory),
        },
        "alive": not put(found.port, asked, clients=1, seconds=0.2).others,
    }


def render(facts: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"# {facts['times']:g} times what a server can answer",
        "",
        f"{facts['date']}, {facts['cores']} virtual cores: the server on one, the client on the rest. Requests of",
        f"{facts['case']}, due at {facts['times']:g} times the rate that {CLIENTS} waiting clients reached, for",
        f"{facts['seconds']:g} s, whatever became of those before. Load of the machine at the end, its own of about",
        f"1.5 among it: {facts['load']:.1f}. Made by `make overload`.",
        "",
        "| Server | it can | offered | answered | refused (503) | else | median | p99 | memory early, late, most |",
        "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for row in facts["servers"]:
        others = dict(row["others"])
        refused = others.pop("503", 0)
        memory = ", ".join(f"{row['memory'][key] / 1e6:.1f}" for key in ("early", "late", "most"))
        strange = sum(others.values()) + row["cut"]
        lines.append(
            f"| {row['name']} | {row['can']:.0f}/s | {row['offered']:.0f}/s | {row['answered']:.0f}/s "
            f"| {refused} of {row['sent']} | {strange or 'none'}{'' if row['alive'] else ', died'} "
            f"| {row['median'] * 1e3:.0f} ms | {row['p99'] * 1e3:.0f} ms | {memory} MB |"
        )
    lines += [
        "",
        "*Early*: the median of the second tenth of the time; *late*: of the last. Latencies are of good answers.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
