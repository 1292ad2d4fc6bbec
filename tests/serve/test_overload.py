"""More than it can do: everybody who connects is told so, and its memory does not follow what they send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import PYTHON, process, quiet_server, status, wait_ready
from test_serve_app import INFER, tensor
from uvicorn import Config
from uvicorn.server import ServerState

from mlopt.image.run import free_port
from mlopt.serve.connection import connection_class

BODY = json.dumps({"inputs": [tensor()]}).encode()


def request(body: bytes = BODY, path: str = INFER) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def answer(client: socket.socket) -> bytes:
    """One whole answer, of a connection that may stay open; b"" where it was closed before."""
    got = b""
    while part := client.recv(65536):
        got += part
        head, found, rest = got.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        if found and length and len(rest) >= int(length[1]):
            break
    return got


def ended(client: socket.socket, *, within: float) -> bool:
    """Whether the server closes it, without a reset, in this time."""
    client.settimeout(within)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    return True


async def _ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[int, list[Any]]]:
    """The port of a server in this loop, and its connections."""
    made: list[Any] = []
    config, kind = Config(_ok, lifespan="off", log_config=None), connection_class(most=10, arrival=5)

    def connection() -> Any:
        made.append(kind(config, ServerState(), {}))
        return made[-1]

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], made


def test_who_asks_while_it_is_just_being_closed_is_answered() -> None:
    """A busy server sees that a connection was idle for long before it sees what has come meanwhile."""

    async def run() -> None:
        async with served() as (port, made):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(2):
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"200" in await reader.readuntil(b"ok")
                raw = writer.get_extra_info("socket")
                os.write(raw.fileno(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                made[0].timeout_keep_alive_handler()
                assert b"200" in await asyncio.wait_for(reader.readuntil(b"ok"), 5)
            made[0].timeout_keep_alive_handler()
            assert await asyncio.wait_for(reader.read(), 5) == b"", "nobody asks now"
            writer.close()

    asyncio.run(run())


def test_who_has_reset_the_connection_meanwhile_is_no_error() -> None:
    async def run() -> None:
        async with served() as (port, made):
            with connected(port) as client:
                while not made:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            made[0].transport.close()
            await asyncio.sleep(0.1)
            assert not made[0].connections

    asyncio.run(run())


def test_all_of_a_crowd_get_an_answer_and_their_bodies_take_no_memory(model_folder: Path) -> None:
    """Everybody has sent what the kernel takes before the server looks: 900 bodies of 250 kB."""
    port = free_port()
    options = ("--log-level", "error", "--max-waiting", "4", "--max-body", "1", "--max-held", "4")
    body = BODY + b" " * (250_000 - len(BODY))
    with process(model_folder, port=port, options=options) as running:
        wait_ready(port, running)
        before = peak(running.pid)
        running.send_signal(signal.SIGSTOP)
        clients = [connected(port) for _ in range(900)]
        try:
            for client in clients:
                client.setblocking(False)
            seen = asyncio.run(_asked(clients, request(body), then=lambda: running.send_signal(signal.SIGCONT)))
        finally:
            for client in clients:
                client.close()
        assert set(seen) == {b"200", b"503"}
        assert peak(running.pid) - before < 64 << 20
        assert status(port, "/v2/health/ready") == 200


async def _asked(clients: list[socket.socket], whole: bytes, *, then: Callable[[], None]) -> list[bytes]:
    """The statuses of this request, sent by all of them at once."""
    loop = asyncio.get_running_loop()

    async def one(client: socket.socket) -> bytes:
        sending = asyncio.create_task(loop.sock_sendall(client, whole))
        try:
            return (await loop.sock_recv(client, 20))[9:12]
        finally:
            await sending

    asked = [asyncio.create_task(one(client)) for client in clients]
    await asyncio.sleep(0.5)
    then()
    return await asyncio.wait_for(asyncio.gather(*asked), 60)


def peak(pid: int) -> int:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@pytest.mark.slow
def test_only_so_many_bodies_are_under_way_at_once_but_slow_ones_lock_nobody_out(model_folder: Path) -> None:
    with quiet_server(model_folder, "--concurrency", "1", "--max-waiting", "1") as port:
        slow = [connected(port) for _ in range(80)]
        for client in slow:
            client.sendall(request()[:-1])
        time.sleep(0.5)
        told = [client for client in slow if select.select([client], [], [], 0)[0]]
        assert len(told) == 80 - (1 + 1 + 64)
        assert all(answer(client).startswith(b"HTTP/1.1 503 ") for client in told)
        assert status(port, INFER, BODY.decode()) == 503
        time.sleep(5)
        assert status(port, INFER, BODY.decode()) == 200
        for client in slow:
            client.close()


def test_who_is_turned_away_while_still_sending_reads_why(model_folder: Path) -> None:
    """Closing at once would reset the connection, and take the answer away."""
    with quiet_server(model_folder, "--max-connections", "5", "--max-body", "1") as port:
        silent = [connected(port) for _ in range(5)]
        for _ in range(10):
            with connected(port) as client:
                client.sendall(request(b" " * 400_000))
                assert answer(client).startswith(b"HTTP/1.1 503 ")
                assert ended(client, within=5)
        for client in silent:
            client.close()
        time.sleep(0.1)
        with connected(port) as client:
            client.sendall(request(b" " * 3_000_000))
            assert answer(client).startswith(b"HTTP/1.1 413 ")
            assert ended(client, within=5)


def test_who_is_idle_gives_way(model_folder: Path) -> None:
    with quiet_server(model_folder, "--max-connections", "4") as port:
        clients = []
        for _ in range(6):
            clients.append(client := connected(port))
            client.sendall(request())
            assert answer(client).startswith(b"HTTP/1.1 200 ")
        assert [ended(client, within=0.3) for client in clients] == [True, True, False, False, False, False]
        for client in clients:
            client.close()


def test_more_files_are_allowed_than_the_shell_does(model_folder: Path) -> None:
    port = free_port()
    command = ("bash", "-c", 'ulimit -Sn 40; exec "$@"', "few", *PYTHON, "-m", "mlopt.serve")
    options = ("--log-level", "error", "--max-connections", "60")
    with process(model_folder, port=port, options=options, command=command) as running:
        wait_ready(port, running)
        clients = [connected(port) for _ in range(70)]
        for client in clients[:60]:
            client.sendall(request())
            assert answer(client).startswith(b"HTTP/1.1 200 ")
        for client in clients:
            client.close()
        running.send_signal(signal.SIGTERM)
        said, _ = running.communicate(timeout=20)
    assert (running.returncode, said) == (0, "")


def test_what_is_left_of_a_body_that_was_answered_has_its_time(model_folder: Path) -> None:
    with quiet_server(model_folder, "--max-arrival", "0.5") as port, connected(port) as client:
        client.sendall(request(path="/nowhere")[:-5])
        assert answer(client).startswith(b"HTTP/1.1 404 ")
        assert ended(client, within=5)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"GET /" + b"a" * 100_000,
        b"POST "
        + INFER.encode()
        + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: "
        + b"a" * 400_000,
        b"POST "
        + INFER.encode()
        + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: y\r\n" * 90_000,
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"a" * 400_000,
        b"GET HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["a header", "a line", "a trailer", "trailers", "an extension", "no path"],
)
def test_heads_and_trailers_without_end_are_refused(model_folder: Path, sent: bytes) -> None:
    with quiet_server(model_folder) as port, connected(port) as client:
        client.sendall(sent)
        assert answer(client).startswith(b"HTTP/1.1 400 ")
        assert ended(client, within=5)


def test_an_offer_of_another_protocol_is_not_taken_and_loses_no_body(model_folder: Path) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    asked = request().replace(b"Host: x\r\n", b"Host: x\r\n" + offer)
    last = asked.replace(b"Upgrade, ", b"close, upgrade, ")
    with quiet_server(model_folder) as port:
        for pieces in (
            [asked + request() + asked + last],
            [asked[:60], asked[60:200], asked[200:] + last[:300], last[300:]],
        ):
            with connected(port) as client:
                for piece in pieces:
                    client.sendall(piece)
                    time.sleep(0.02)
                got = b""
                while part := client.recv(65536):
                    got += part
            assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200"] * (4 if len(pieces) == 1 else 2)
        with connected(port) as client:
            client.sendall(b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere\r\n\r\n")
            assert answer(client).startswith(b"HTTP/1.1 400 ")


def test_requests_before_nonsense_are_answered_first(model_folder: Path) -> None:
    with quiet_server(model_folder) as port, connected(port) as client:
        client.sendall(request() + request() + b"nonsense\r\n\r\n")
        got = b""
        while part := client.recv(65536):
            got += part
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200", b"200", b"400"]
