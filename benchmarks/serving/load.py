"""A load: so many clients, each asking again as soon as it is answered, over connections that stay open."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """What so many clients saw: latencies of good answers in seconds, sorted; every other status, counted."""

    clients: int
    seconds: float
    latencies: tuple[float, ...]
    others: dict[int, int]

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds; infinite where nothing was answered."""
        return self.latencies[min(int(len(self.latencies) * share), len(self.latencies) - 1)] if self.latencies else 1e9


def request(path: str, body: bytes, *, headers: dict[str, str] | None = None) -> bytes:
    """The bytes of a POST."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def put(port: int, asked: bytes, *, clients: int, seconds: float) -> Load:
    """Put this load on a server of this machine."""
    return asyncio.run(_put(port, asked, clients, seconds))


async def _put(port: int, asked: bytes, clients: int, seconds: float) -> Load:
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    opened = [
        await loop.create_connection(lambda: _Client(asked, began + seconds), "127.0.0.1", port) for _ in range(clients)
    ]
    protocols = [protocol for _, protocol in opened]
    await asyncio.gather(*(protocol.ended for protocol in protocols))
    took = time.perf_counter() - began
    others: dict[int, int] = {}
    for protocol in protocols:
        for status, count in protocol.others.items():
            others[status] = others.get(status, 0) + count
    latencies = sorted(latency for protocol in protocols for latency in protocol.latencies)
    return Load(clients, took, tuple(latencies), others)


class Connection(asyncio.Protocol, ABC):
    """Sends `asked` when told to `ask`, one request at a time, and hands the reply's status to `answered`; `last` says
    that the server takes no other on this connection."""

    def __init__(self, asked: bytes) -> None:
        self.asked, self.got, self.began, self.last = asked, bytearray(), 0.0, False
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.ask()

    def data_received(self, data: bytes) -> None:
        self.got += data
        head = self.got.find(b"\r\n\r\n")
        if head < 0:
            return
        lines = bytes(self.got[:head]).lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        whole = len(self.got) >= head + 4 + lengths[0] if lengths else self.got.endswith(b"\r\n0\r\n\r\n")
        if whole:
            self.last = b"connection: close" in lines
            self.answered(int(lines[0].split()[1]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def ask(self) -> None:
        self.got.clear()
        self.began = time.perf_counter()
        self.transport.write(self.asked)

    @abstractmethod
    def answered(self, status: int) -> None:
        """What comes next."""


class _Client(Connection):
    """Asks again as soon as it is answered."""

    def __init__(self, asked: bytes, until: float) -> None:
        super().__init__(asked)
        self.until = until
        self.latencies: list[float] = []
        self.others: dict[int, int] = {}

    def answered(self, status: int) -> None:
        now = time.perf_counter()
        if status == 200:
            self.latencies.append(now - self.began)
        else:
            self.others[status] = self.others.get(status, 0) + 1
        if now < self.until:
            self.ask()
        else:
            self.transport.close()
