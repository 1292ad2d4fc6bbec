"""Keys, TLS, slow and deaf clients, and the settings that say so, on a server of its own process."""

from __future__ import annotations

import json
import re
import select
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, quiet_server, status, wait_ready
from test_serve_app import INFER, tensor

from mlopt.image.run import free_port
from mlopt.serve.health import main as healthy
from mlopt.serve.keys import read_keys
from mlopt.serve.model import NotServable
from mlopt.serve.settings import read_settings

KEY, OTHER = "a-key-of-16-chars", "another-key-of-20-ch"
BODY = json.dumps({"inputs": [tensor()]})


@pytest.fixture(scope="module")
def keyed(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"# of the team\n\n{KEY}\n")
    with quiet_server(
        model_folder, "--api-keys-file", str(file), environment={"MLOPT_SERVE_API_KEYS": f"{OTHER}, "}
    ) as port:
        yield port


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer {OTHER}"}, 200),
        ({"X-Api-Key": KEY}, 200),
        ({"X-Api-Key": KEY[:-1]}, 401),
        ({"X-Api-Key": KEY + "x"}, 401),
        ({"X-Api-Key": ""}, 401),
        ({"Authorization": KEY}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"Authorization": f"Bearer {KEY} {OTHER}"}, 401),
    ],
)
def test_a_key_opens_every_route(keyed: int, headers: dict[str, str], wanted: int) -> None:
    url = f"http://127.0.0.1:{keyed}"
    assert httpx.post(url + INFER, content=BODY, headers=headers).status_code == wanted
    for path in ("/metrics", "/v2", "/v2/models/colours", "/v1/models/colours"):
        assert httpx.get(url + path, headers=headers).status_code == wanted, path


def test_probes_and_the_page_need_no_key(keyed: int) -> None:
    for path in ("/", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert status(keyed, path) == 200
    reply = httpx.get(f"http://127.0.0.1:{keyed}/nowhere")
    assert (reply.status_code, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize(
    ("file", "listed"),
    [
        ("", None),
        ("# none\n", None),
        ("short", None),
        ("two keys in one line", None),
        ("ä" * 20, None),
        (None, ""),
        (None, "short"),
    ],
)
def test_keys_that_guard_nothing_are_refused(tmp_path: Path, file: str | None, listed: str | None) -> None:
    if file is not None:
        (tmp_path / "keys").write_text(file)
    with pytest.raises(NotServable, match="key"):
        read_keys(file=tmp_path / "keys" if file is not None else None, listed=listed)
    with pytest.raises(NotServable, match="cannot be read"):
        read_keys(file=tmp_path / "absent", listed=None)


def test_no_keys_no_guard() -> None:
    assert read_keys(file=None, listed=None) == ()


def test_tls_serves_the_certificate_and_nothing_in_the_clear(
    model_folder: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    port = free_port()
    with process(model_folder, port=port, options=("--tls-cert", str(cert), "--tls-key", str(key))) as running:
        wait_ready(port, running, tls=True)
        trusting = ssl.create_default_context(cafile=str(cert))
        reply = httpx.post(f"https://localhost:{port}{INFER}", content=BODY, verify=trusting)
        assert reply.status_code == 200
        assert healthy([str(port)]) == 0, "the container's own health check speaks TLS too"
        assert status(port, "/v2/health/live") == 0, "plain HTTP is not answered"
        old = ssl.create_default_context(cafile=str(cert))
        old.minimum_version, old.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_1
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"https://localhost:{port}/v2", verify=old)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) == 0


def test_a_certificate_that_cannot_be_used_ends_it_with_a_reason(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    for file in ("x.pem", "absent.pem"):
        options = ("--tls-cert", str(tmp_path / file), "--tls-key", str(tmp_path / file))
        with process(model_folder, port=free_port(), options=options) as running:
            said, _ = running.communicate(timeout=30)
        assert running.returncode == 1
        assert f"{file} cannot be used" in json.loads(said.splitlines()[-1])["reason"]


@pytest.fixture(scope="module")
def strict(model_folder: Path) -> Iterator[int]:
    small = ("--max-body", "1", "--max-held", "1")
    with quiet_server(model_folder, "--max-arrival", "0.5", "--max-connections", "20", *small) as port:
        yield port


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\r\n",
    ],
)
def test_who_is_too_slow_is_cut_off(strict: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", strict), timeout=10) as client:
        began = time.monotonic()
        client.sendall(sent)
        assert client.recv(1000).startswith(b"HTTP/1.1 408")
        while client.recv(1000):
            pass
        assert 0.3 < time.monotonic() - began < 5


def test_a_head_that_trickles_in_is_cut_off(strict: int) -> None:
    with socket.create_connection(("127.0.0.1", strict), timeout=10) as client:
        began = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\nX: ")
        client.settimeout(0.05)
        answer = b""
        for _ in range(200):
            try:
                client.sendall(b"x")
                answer = client.recv(100)
                break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - began < 5
        assert answer[:12] in (b"HTTP/1.1 408", b"")


def test_more_connections_than_allowed_get_503(strict: int) -> None:
    clients = [socket.create_connection(("127.0.0.1", strict), timeout=10) for _ in range(25)]
    try:
        answers = [client.recv(1000) for client in clients[21:]]
        assert all(answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer for answer in answers)
    finally:
        for client in clients:
            client.close()
    time.sleep(0.1)
    assert status(strict, "/v2/health/ready") == 200


def test_bodies_that_hold_too_much_together_get_503(strict: int) -> None:
    head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode()
    first, second = (socket.create_connection(("127.0.0.1", strict), timeout=10) for _ in range(2))
    with first, second:
        first.sendall(head + b" " * 600_000)
        second.sendall(head + b" " * 600_000)
        ready, _, _ = select.select([first, second], [], [], 10)
        answer = ready[0].recv(1000)
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 1" in answer.lower()
    time.sleep(0.1)
    assert status(strict, INFER, BODY) == 200, "what was held is given back"


def test_a_body_that_breaks_off_in_nonsense_is_one_400_and_no_line(model_folder: Path) -> None:
    """While the answer is on its way (nobody reads an unknown route's body), and to HEAD, whose answer has none."""
    port = free_port()
    with process(model_folder, port=port, options=("--log-level", "error")) as running:
        wait_ready(port, running)
        for line in (b"POST /nowhere", b"HEAD /", b"GET /metrics", b"POST " + INFER.encode()):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
                client.sendall(line + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
                answer = b""
                while part := client.recv(1000):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 400"), line
            assert answer.count(b"HTTP/1.1") == 1, line
        running.send_signal(signal.SIGTERM)
        said, _ = running.communicate(timeout=20)
    assert (running.returncode, said) == (0, "")


def test_settings_come_from_the_environment_and_options_win(capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"MLOPT_SERVE_MAX_BATCH": "8", "MLOPT_SERVE_BATCH_DELAY_US": "500", "MLOPT_SERVE_MODEL_DIR": "/m"}
    settings = read_settings(["--max-batch", "4"], environment)
    assert (settings.limits.batch, settings.limits.delay, settings.model_dirs) == (4, 0.0005, (Path("/m"),))
    for wrong in ({"MLOPT_SERVE_MAX_BATCH": "0"}, {"MLOPT_SERVE_LOG_LEVEL": "loud"}, {"MLOPT_SERVE_TLS_CERT": "x"}):
        with pytest.raises(SystemExit):
            read_settings([], environment | wrong)
        assert re.search("--(max-batch|log-level|tls-key)", capsys.readouterr().err)


def test_who_waited_too_long_gets_503(model_folder: Path) -> None:
    with quiet_server(model_folder, "--max-wait", "0.0001", "--max-batch", "2", "--batch-delay-us", "50000") as port:
        reply = httpx.post(f"http://127.0.0.1:{port}{INFER}", content=BODY)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
