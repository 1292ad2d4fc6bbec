"""Who opens connections to the port of gRPC and says nothing: so many at a time, and none of them for ever."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from serving_process import process, status, wait_ready

from mlopt.image.run import free_port
from mlopt.serve.oip import SERVICE, messages

grpc = pytest.importorskip("grpc", reason="grpcio (the extra [grpc]) is not installed")
MOST = 20
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
# The server, with connections idle for a second instead of more than a minute, for which no test shall wait.
SHORT = "import mlopt.serve.rpc; mlopt.serve.rpc.KEEP_ALIVE = 1; import mlopt.serve.__main__ as it; exit(it.main())"


@contextmanager
def server(folder: Path, *options: str, tls: bool = False) -> Iterator[tuple[int, int]]:
    """The port of gRPC, and the process, which is well when the block ends."""
    port, rpc = free_port(), free_port()
    options = ("--log-level", "error", "--max-connections", str(MOST), "--grpc-port", str(rpc), *options)
    with process(folder, port=port, options=options, command=(sys.executable, "-c", SHORT)) as running:
        wait_ready(port, running, tls=tls)
        yield rpc, running.pid
        assert status(port, "/v2/health/ready", tls=tls) == 200
        running.terminate()
        assert (running.communicate(timeout=30)[0], running.returncode) == ("", 0)


def opened(stack: ExitStack, rpc: int, *, count: int, said: bytes = b"") -> list[socket.socket]:
    """So many connections that say this and no more."""
    clients = [stack.enter_context(socket.create_connection(("127.0.0.1", rpc), timeout=20)) for _ in range(count)]
    for client in clients:
        with suppress(ConnectionError):  # it is refused already
            client.sendall(said)
    return clients


def left_open(clients: list[socket.socket], *, count: int) -> list[socket.socket]:
    """Those that are open when all but so many have ended."""
    left = set(clients)
    while len(left) > count:
        heard, _, _ = select.select(left, [], [], 20)
        assert heard, f"{len(left)} are open"
        for client in heard:
            try:
                ended = not client.recv(4096)
            except ConnectionError:
                ended = True
            left -= {client} if ended else set()
    return list(left)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def wait_for_end(client: socket.socket) -> None:
    with suppress(ConnectionError):
        while client.recv(4096):
            pass


def live(rpc: int, certificate: Path | None = None, *, patient: bool = True) -> bool:
    """What a call is told over a connection of its own; a `patient` one tries again until it gets one."""
    at, options = f"localhost:{rpc}", [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
    known = certificate and grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(at, known, options) if known else grpc.insecure_channel(at, options) as channel:
        ask = channel.unary_unary(f"/{SERVICE}/ServerLive")
        return bool(messages()["ServerLiveResponse"].FromString(ask(b"", timeout=20, wait_for_ready=patient)).live)


def test_connections_have_a_number_and_leave_room_when_they_end(model_folder: Path) -> None:
    with server(model_folder) as (rpc, pid), ExitStack() as stack:
        before = descriptors(pid)
        held = left_open(opened(stack, rpc, count=600), count=MOST)
        deadline = time.monotonic() + 5  # a client hears of the end a moment before the server's descriptor is gone
        while descriptors(pid) > before + MOST and time.monotonic() < deadline:
            time.sleep(0.05)
        assert descriptors(pid) <= before + MOST
        with pytest.raises(grpc.RpcError) as refused:
            live(rpc, patient=False)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        held[0].close()
        assert live(rpc)


def test_addresses_of_one_name_share_the_number(model_folder: Path) -> None:
    addresses = {one[4] for one in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}
    with server(model_folder, "--host", "localhost") as (rpc, _), ExitStack() as stack:
        left_open(opened(stack, rpc, count=100), count=MOST // len(addresses))


@pytest.mark.parametrize("said", [b"", b"PRI", PREFACE, PREFACE + SETTINGS], ids=["silent", "cut", "preface", "idle"])
def test_who_says_nothing_loses_the_place(model_folder: Path, said: bytes) -> None:
    with server(model_folder, "--max-arrival", "0.5") as (rpc, _), ExitStack() as stack:
        clients = opened(stack, rpc, count=MOST, said=said)
        assert live(rpc)
        for client in clients:
            wait_for_end(client)


def test_so_does_who_begins_no_tls(model_folder: Path, certificate: tuple[Path, Path]) -> None:
    files = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    with server(model_folder, "--max-arrival", "0.5", *files, tls=True) as (rpc, _), ExitStack() as stack:
        clients = opened(stack, rpc, count=MOST)
        assert live(rpc, certificate[0])
        for client in clients:
            wait_for_end(client)
