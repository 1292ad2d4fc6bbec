"""The server as a process: starts, answers, stops when told, and says why when it cannot serve."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import PYTHON, process, status, wait_ready

from mlopt.image.run import free_port


def test_it_serves_and_stops_gracefully_on_sigterm(model_folder: Path) -> None:
    port = free_port()
    with process(model_folder, port=port) as running:
        wait_ready(port, running)
        tensor = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [1.0] * 192}
        assert status(port, "/v2/models/colours/infer", json.dumps({"inputs": [tensor]})) == 200
        health = [*PYTHON, "-m", "mlopt.serve.health"]
        assert subprocess.run([*health, str(port)], check=False).returncode == 0
        assert subprocess.run([*health, str(free_port())], check=False).returncode == 1
        running.send_signal(signal.SIGTERM)
        said, _ = running.communicate(timeout=20)
        assert running.returncode == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["event"] for line in lines] == ["ready", "request", "stopped"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", lines[0]["time"])


def test_a_request_under_way_is_answered_before_it_stops(model_folder: Path) -> None:
    port = free_port()
    with process(model_folder, port=port) as running:
        wait_ready(port, running)
        tensor = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [1.0] * 192}
        body = json.dumps({"inputs": [tensor]}).encode()
        head = f"POST /v2/models/colours/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head + body[:10])
            time.sleep(0.2)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            client.sendall(body[10:])
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert running.wait(20) == 0


def test_what_is_not_finished_in_time_is_dropped(model_folder: Path) -> None:
    """Half a body, and a grace of a second: the server ends without the other half."""
    port = free_port()
    with process(model_folder, port=port, options=("--grace", "1")) as running:
        wait_ready(port, running)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
            time.sleep(0.2)
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(20) == 0
        assert 0.5 < time.monotonic() - began < 10


def test_it_starts_without_what_only_some_requests_need() -> None:
    """Starting is importing: Pillow comes with a picture, prometheus-client with /metrics, and the others never."""
    asked = [*PYTHON, "-X", "importtime", "-m", "mlopt.serve", "--help"]
    told = subprocess.run(asked, capture_output=True, text=True, check=True).stderr
    loaded = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert {"numpy.linalg", "uvicorn.server", "starlette.applications"} <= loaded
    late = {"PIL", "prometheus_client", "mlopt.serve.first_start", "mlopt.serve.torchserve", "mlopt.serve.page"}
    assert not loaded & {*late, "grpc", "click", "multiprocessing", "uvicorn.main", "h11", "http.server"}
    assert not loaded & {"numpy._core._add_newdocs", "numpy._typing", "anyio._core._sockets"}


def test_a_damaged_model_ends_it_with_a_reason(broken_folder: Path) -> None:
    with process(broken_folder, port=free_port()) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "model.onnx cannot be loaded" in json.loads(said.splitlines()[-1])["reason"]


def test_an_absent_folder_ends_it_with_a_reason(tmp_path: Path) -> None:
    with process(tmp_path, port=free_port()) as running:
        said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "serving.json" in json.loads(said)["reason"]


def test_a_taken_port_ends_it(model_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with process(model_folder, port=taken.getsockname()[1]) as running:
            said, _ = running.communicate(timeout=30)
    assert running.returncode == 1
    assert "address already in use" in said


@pytest.mark.parametrize("options", [("--concurrency", "0"), ("--max-body", "-1"), ("--port", "x")])
def test_wrong_options_are_refused(model_folder: Path, options: tuple[str, str]) -> None:
    with process(model_folder, port=free_port(), options=options) as running:
        running.communicate(timeout=30)
    assert running.returncode == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/x\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
)
def test_hostile_bytes_are_refused_or_cut_off_and_it_lives(model_folder: Path, raw: bytes) -> None:
    port = free_port()
    with process(model_folder, port=port) as running:
        wait_ready(port, running)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            try:
                client.sendall(raw)
                reply = client.recv(1000)
            except ConnectionError:
                reply = b""
        # Closing with bytes unread may reset the connection before the answer is seen.
        assert reply == b"" or reply.startswith(b"HTTP/1.1 4"), reply
        assert status(port, "/v2/health/ready") == 200
