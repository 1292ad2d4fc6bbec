"""The benchmark of servers: its load counts right, its table says who kept the limit, its peers are pinned."""

from __future__ import annotations

import ast
import http.server
import socket
import threading
from collections.abc import Iterator
from typing import Any

import overload
import pytest
from serving.load import put, request
from serving.offered import offer
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


def test_an_offered_load_is_sent_whatever_becomes_of_it(port: int) -> None:
    seconds: list[float] = []
    seen = offer(port, request("/x", b"right"), rate=40, seconds=1.2, each=seconds.append)
    assert 40 <= seen.sent <= 49, "as many as were due"
    assert (len(seen.latencies), seen.others, seen.cut, seen.unsent) == (seen.sent, {}, 0, 0)
    assert len(seconds) == 1
    assert seen.percentile(0.5) <= seen.percentile(0.99) < 5
    refused = offer(port, request("/x", b"wrong"), rate=20, seconds=0.5, each=seconds.append)
    assert refused.others == {503: refused.sent}


def test_who_does_not_answer_is_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        threading.Thread(target=lambda: silent.accept()[0].close(), daemon=True).start()
        seen = offer(silent.getsockname()[1], request("/x", b"right"), rate=1, seconds=0.3, each=lambda past: None)
    assert (seen.sent, seen.cut, seen.latencies) == (1, 1, [])


def overloaded(**differing: Any) -> dict[str, Any]:
    memory = {"early": 40e6, "late": 41e6, "most": 42e6}
    figures = {"can": 100.0, "offered": 200.0, "answered": 95.0, "median": 0.3, "p99": 0.9, "sent": 1200, "unsent": 0}
    return {"name": "a", **figures, "cut": 0, "others": {"503": 600}, "memory": memory, "alive": True, **differing}


def test_under_too_much_load_a_server_may_refuse_and_nothing_else() -> None:
    assert overload.held(overloaded())
    for fault in ({"cut": 1}, {"others": {"503": 5, "500": 1}}, {"alive": False}):
        assert not overload.held(overloaded(**fault))
    facts = {"date": "today", "cores": 2, "times": 2.0, "seconds": 600.0, "case": "pictures", "load": 1.4}
    said = overload.render({**facts, "servers": [overloaded(), overloaded(others={"500": 2}, cut=1, alive=False)]})
    assert "| a | 100/s | 200/s | 95/s | 600 of 1200 | none | 300 ms | 900 ms | 40.0, 41.0, 42.0 MB |" in said
    assert "| 3, died |" in said


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
    facts = {"date": "d", "processor": "CPU", "cores": 2, "seconds": 1.0, "rounds": 1}
    facts |= {"load_before": 3.1, "load_after": 4.2}
    text = render(facts | {"cases": [case | {"servers": servers}]})
    assert "| mlopt | 300 | 8 | 1.0× | 2.00 ms | 5.00 ms | 8.00 ms | 0.25 s | 40 MB |" in text
    assert "| Other | 100 | 1 | 3.0× |" in text
    assert "| Never | none keeps it | – | – |" in text
    assert "* Absent: pip refuses" in text
    assert "Load of the machine: 3.1 before, 4.2 after" in text
    assert "Others worked on it" in text
    assert "Others worked on it" not in render(facts | {"load_before": 0.4, "cases": []})


def test_each_peer_is_a_program_that_parses_with_pinned_requirements() -> None:
    programs = sorted(PEERS.glob("*.py"))
    named = {f"server_{name}" for name in ("bentoml", "flask", "kserve", "mlserver")}
    assert {program.stem for program in programs} == named
    for program in programs:
        ast.parse(program.read_text())
        lines = program.with_suffix(".txt").read_text().splitlines()
        assert all("==" in line for line in lines)
