"""The benchmark of servers: its load counts right, its table says who kept the limit, its peers are pinned."""

from __future__ import annotations

import ast
import http.server
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from serving.load import put, request
from serving.rendered import best_rate, render
from serving.servers import PEERS


class _Answering(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if body == b"right" else 503)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"yes")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_a_load_counts_answers_and_refusals(port: int) -> None:
    load = put(port, request("/x", b"right"), clients=3, seconds=0.3)
    assert load.others == {}
    assert len(load.latencies) >= 3
    assert load.latencies == tuple(sorted(load.latencies))
    assert 0 < load.percentile(0.5) <= load.percentile(0.99) < 5
    refused = put(port, request("/x", b"wrong"), clients=2, seconds=0.2)
    assert refused.latencies == ()
    assert refused.others[503] >= 2


def row(name: str, rates: dict[str, tuple[float, float]], **others: Any) -> dict[str, Any]:
    loads = {
        clients: [{"rate": rate, "median": p99 / 2, "p99": p99, "others": {}, "answered": 50, "processor": 0.1}]
        for clients, (rate, p99) in rates.items()
    }
    return {"name": name, "start": 0.25, "memory": 40e6, "loads": loads, **others}


def test_the_best_rate_keeps_the_limit_and_refuses_nobody() -> None:
    found = row("a", {"1": (100, 0.01), "8": (300, 0.02), "32": (500, 0.09)})
    assert best_rate(found, 0.02) == (300, 8)
    found["loads"]["8"][0]["others"] = {"503": 1}
    assert best_rate(found, 0.02) == (100, 1)
    assert best_rate(found, 0.001) is None


def test_the_table_says_what_was_not_measured() -> None:
    ours, slow = row("mlopt", {"1": (100, 0.01), "8": (300, 0.02)}), row("Other", {"1": (100, 0.01)})
    case = {"name": "small", "what": "numbers", "limit": 0.02, "raw": {"median": 0.001, "p99": 0.002}}
    servers = [ours, slow, row("Never", {"1": (1, 9.0)}), {"name": "Absent", "skipped": "pip refuses"}]
    facts = {"date": "d", "cores": 2, "seconds": 1.0, "rounds": 1, "load_before": 3.1, "load_after": 4.2}
    text = render(facts | {"cases": [case | {"servers": servers}]})
    assert "| mlopt | 300 | 8 | 1.0× | 2.00 ms | 5.00 ms | 8.00 ms | 0.25 s | 40 MB |" in text
    assert "| Other | 100 | 1 | 3.0× |" in text
    assert "| Never | none keeps it | – | – |" in text
    assert "* Absent: pip refuses" in text
    assert "Load of the machine: 3.1 before, 4.2 after" in text


def test_each_peer_is_a_program_that_parses_with_pinned_requirements() -> None:
    programs = sorted(PEERS.glob("*.py"))
    named = {f"server_{name}" for name in ("bentoml", "flask", "kserve", "mlserver")}
    assert {program.stem for program in programs} == named
    for program in programs:
        ast.parse(program.read_text())
        lines = program.with_suffix(".txt").read_text().splitlines()
        assert all("==" in line for line in lines)
