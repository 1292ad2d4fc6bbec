"""The servers in mlopt's images beside MLServer, KServe, BentoML and Flask: the same models, requests, client and core.

    make bench-server     (or: python benchmarks/server.py [--seconds 1] [--rounds 3])

Each server is on one core, with one thread of ONNX Runtime; the client has the other cores. mlopt's runs in this
Python, as the peers do, and from its images' files. Loads of 1 to 32 clients take turns over all servers. Peers live in
environments of their own, made under out/peers/ and kept.
Writes reports/published/server.json, and the .md from it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from serving.cases import CASES, Case, raw_inference, write_model
from serving.load import put, request
from serving.rendered import render
from serving.servers import SERVERS, Running, Server, running
from watched import cpu

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "server.json"
CLIENTS = (1, 2, 4, 8, 16, 32)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1.0, help="of each load  [default: %(default)s]")
    options.add_argument("--rounds", type=int, default=3, help="of all loads  [default: %(default)s]")
    options.add_argument("--starts", type=int, default=3, help="of each server  [default: %(default)s]")
    options.add_argument("--out", type=Path, default=ROOT / "out")
    said = options.parse_args()
    cores = sorted(os.sched_getaffinity(0) if len(os.sched_getaffinity(0)) > 1 else range(os.cpu_count() or 1))
    facts: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": cpu(),
        "cores": len(cores),
        "seconds": said.seconds,
        "rounds": said.rounds,
        "load_before": os.getloadavg()[0],
        "cases": [],
    }
    home = (said.out / "peers").resolve()
    home.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        facts["cases"].append(_one_case(case, said, home, core=cores[-1], others=set(cores[:-1]) or {cores[0]}))
    facts["load_after"] = os.getloadavg()[0]
    PUBLISHED.write_text(json.dumps(facts, indent=1) + "\n")
    PUBLISHED.with_suffix(".md").write_text(render(facts))


def _one_case(case: Case, said: argparse.Namespace, home: Path, *, core: int, others: set[int]) -> dict[str, Any]:
    model = write_model(case, said.out.resolve() / "server" / case.name)
    os.sched_setaffinity(0, {core})
    raw = raw_inference(case, model, count=500)
    os.sched_setaffinity(0, others)
    rows: list[dict[str, Any]] = [_started(server, model, home, core, said.starts) for server in SERVERS]
    with contextlib.ExitStack() as stack:
        alive: list[tuple[Server, Running, dict[str, Any]]] = []
        for server, row in zip(SERVERS, rows, strict=True):
            found = stack.enter_context(running(server, model, home, core=core)) if "skipped" not in row else ""
            if isinstance(found, Running):
                alive.append((server, found, row))
        _loads(case, said, alive)
    return {
        "name": case.name,
        "what": case.what,
        "limit": case.limit,
        "raw": {"median": raw[len(raw) // 2], "p99": raw[int(len(raw) * 0.99)]},
        "servers": rows,
    }


def _started(server: Server, model: Path, home: Path, core: int, times: int) -> dict[str, Any]:
    """Start to ready, the middle of some starts, and the memory that it then holds."""
    starts, memory = [], []
    for _ in range(times + 1):
        with running(server, model, home, core=core) as found:
            if isinstance(found, str):
                print(f"skipped: {server.name}: {found}", file=sys.stderr)
                return {"name": server.name, "skipped": found}
            time.sleep(0.5)
            starts.append(found.start)
            memory.append(found.memory())
    # The first start reads files from the disk, and compiles Python.
    return {"name": server.name, "start": statistics.median(starts[1:]), "memory": statistics.median(memory[1:])}


def _loads(case: Case, said: argparse.Namespace, alive: list[tuple[Server, Running, dict[str, Any]]]) -> None:
    body = case.body
    for server, found, _ in alive:
        put(found.port, request(server.infer, body), clients=2, seconds=0.5)
    for round in range(said.rounds):
        for clients in CLIENTS:
            for server, found, row in alive if round % 2 else reversed(alive):
                before = found.processor()
                load = put(found.port, request(server.infer, body), clients=clients, seconds=said.seconds)
                row.setdefault("loads", {}).setdefault(str(clients), []).append(
                    {
                        "rate": load.rate,
                        "median": load.percentile(0.5),
                        "p99": load.percentile(0.99),
                        "answered": len(load.latencies),
                        "processor": found.processor() - before,
                        "others": load.others,
                    }
                )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
