"""A client's connection: uvicorn's, with bounds for what it leaves open: slow heads, deaf readers, their number."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGEST_HEAD: Final = 16 << 10
_NONSENSE: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def connection_class(*, most: int, arrival: float) -> type[H11Protocol]:
    """At most `most` connections at once; the head of a request has `arrival` seconds, as has an unread answer."""

    class Connection(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.conn = _OneWrite(h11.SERVER, _LARGEST_HEAD)

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.write(_BUSY)
                transport.close()
                return
            _give_up_on_deaf_readers(transport, arrival)
            self._deadline = self.loop.call_later(arrival, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            super().data_received(data)
            # IDLE: no head is whole. The time runs from its first byte, however steadily the others trickle in.
            if self.conn.their_state is not h11.IDLE:
                self._stop()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(arrival, self._too_slow)

        def send_400_response(self, msg: str) -> None:
            """The body broke off in nonsense: this is the answer, and what the app still says goes nowhere."""
            if self.cycle is not None:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            # By hand and without a body: h11 would refuse one where the request was a HEAD.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self.transport.write(_NONSENSE)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self) -> None:
            self._deadline = None
            if not self.transport.is_closing():
                self.transport.write(_SLOW)
                self.transport.close()

    return Connection


class _OneWrite(h11.Connection):
    """Keeps the head of a response until its body is there: one system call and one packet for both."""

    _head = b""

    def send(self, event: Any) -> Any:
        data = super().send(event)
        if type(event) is h11.Response:
            self._head = data
            return b""
        if self._head and data is not None:
            data, self._head = self._head + data, b""
        return data


def _give_up_on_deaf_readers(transport: asyncio.Transport, seconds: float) -> None:
    """The kernel ends a connection whose other side takes nothing of what is sent for this long."""
    raw: Any = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
