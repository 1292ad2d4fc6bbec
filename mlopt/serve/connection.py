"""A client's connection: uvicorn's, with bounds for what it leaves open: slow heads, deaf readers, their number."""

from __future__ import annotations

import asyncio
from typing import Final

import httptools

from mlopt.serve.asgi import FlowControl, HttpToolsProtocol
from mlopt.serve.wire import Wire, give_up_on_deaf_readers

KEEP_ALIVE: Final = 75  # seconds: balancers keep theirs for 60, and must not ask where it is just being closed
_LARGEST_HEAD: Final = 16 << 10  # bytes; and what is read at once before a request is refused or taken
_AT_ONCE: Final = 256 << 10  # bytes of a body
_TOGETHER: Final = 16 << 20  # of all of them, in one turn of the loop: nobody counts them before the next
_OLDEST: Final = 8  # idle connections that are looked at to make room for a new one
_OFFER: Final = (b"upgrade", b"http2-settings")
_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_NONSENSE: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


def head_without_offer(parser: httptools.HttpRequestParser, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The head of this request, without the words that offer another protocol. Raises `HttpParserError` for CONNECT."""
    if parser.get_method() == b"CONNECT":
        raise httptools.HttpParserError("this is no proxy")
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    for name, value in headers:
        if name == b"connection":
            value = b",".join(word for word in value.split(b",") if word.strip().lower() not in _OFFER)
        if name not in _OFFER:
            lines.append(name + b": " + value)
    return b"\r\n".join([*lines, b"", b""])


def connection_class(*, most: int, arrival: float) -> type[HttpToolsProtocol]:
    """At most `most` connections at once. The head of a request has `arrival` seconds, as has an unread answer, and
    what is left of a body that was answered before its end."""
    idle: dict[Connection, None] = {}  # who has waited longest comes first

    class Connection(HttpToolsProtocol):
        transport: Wire  # type: ignore[assignment]
        _deadline: asyncio.TimerHandle | None = None
        _whole = True  # all that came are whole requests
        _headed = False  # the head is whole, and its body not
        _told = False  # the parser has made something of what it was fed
        _silent = 0  # bytes since it did: a head, or what trails a body
        _broken = False  # it will read no other request

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.transport = Wire(transport, heard_out=lambda: self._whole)
            self.flow = FlowControl(self.transport)  # type: ignore[arg-type]  # it has what that calls
            self.transport.read_at_once(_LARGEST_HEAD)
            if len(self.connections) > most and not _room_made():
                self._whole = len(self.connections) > 2 * most  # those cannot all be heard out
                self.transport.write(_BUSY)
                self.transport.close()
                return
            give_up_on_deaf_readers(transport, arrival)
            self._deadline = self.loop.call_later(arrival, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing() or self._broken:
                return
            idle.pop(self, None)
            self._unset_keepalive_if_required()
            self._whole = self._told = False
            try:
                self._feed(memoryview(data))
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("")
            self._silent = 0 if self._told else self._silent + len(data)
            if self._silent > _LARGEST_HEAD and not self._broken:
                self.send_400_response("")
            self._watch()

        def on_message_begin(self) -> None:
            self._whole = False
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._told = True
            if self.parser.should_upgrade():  # `_feed` takes it up
                return
            super().on_headers_complete()
            self._headed = True  # only now: it raises where the line names no path

        def on_body(self, body: bytes) -> None:
            self._told = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            if self.parser.should_upgrade():
                return
            self._told = self._whole = True
            self._headed = False
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self.transport.flush()
            super().on_response_complete()
            if self._broken:
                self._end_broken()
            self._watch()

        def send_400_response(self, msg: str) -> None:
            """What came is nonsense: the answer to it is this, after those to the requests before it."""
            self._whole, self._broken = False, True
            if self._headed:  # it is a request's body, and what the app still says to that goes nowhere
                self.cycle.disconnected = True
                self.cycle.message_event.set()
                if self.pipeline:
                    self.pipeline.popleft()
                    return
            self._end_broken()

        def timeout_keep_alive_handler(self) -> None:
            """It was idle for long enough, unless it has asked while the server was busy with others."""
            self.timeout_keep_alive_task = None
            if self.transport.speaks():
                self._keep_alive()
            else:
                self.leave()

        def leave(self) -> None:
            """Close while it asks for nothing; it counts no more."""
            idle.pop(self, None)
            self.connections.discard(self)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            self._unset_keepalive_if_required()
            idle.pop(self, None)
            self.transport.lost()
            super().connection_lost(exc)

        def _feed(self, data: memoryview) -> None:
            """Raises `HttpParserError`. Other protocols are not spoken here: a request that offers one, as Java's
            client does with its first, is read as if it did not. The parser would leave its body unread."""
            while True:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as offered:
                    data = data[offered.args[0] :]
                    head = head_without_offer(self.parser, self.url, self.headers)
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.feed_data(head)

        def _watch(self) -> None:
            """Give what is waited for its time. How long a body may take is for the app to say, until it answers."""
            if self.transport.is_closing():
                return
            answered = self.cycle is None or self.cycle.response_complete
            self.transport.read_at_once(self._share(answered) if self._headed else _LARGEST_HEAD)
            if self._whole or (self._headed and not answered):
                self._stop()
            elif self._deadline is None:  # from the first byte, however steadily the others trickle in
                self._deadline = self.loop.call_later(arrival, self._too_slow)
            if self._whole and answered:
                idle[self] = None
                if self.timeout_keep_alive_task is None:
                    self._keep_alive()

        def _share(self, answered: bool) -> int:
            """How much of a body to read at once; what is answered is thrown away as it comes."""
            return _AT_ONCE if answered else min(_AT_ONCE, max(_LARGEST_HEAD, _TOGETHER // len(self.connections)))

        def _keep_alive(self) -> None:
            after = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(after, self.timeout_keep_alive_handler)

        def _stop(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _too_slow(self) -> None:
            self._deadline = None
            if not self._headed:  # a body is late whose request has its answer
                self.transport.write(_SLOW)
            self.transport.close()

        def _end_broken(self) -> None:
            waits = self.cycle and not (self.cycle.response_complete or self.cycle.disconnected)
            if self.pipeline or waits:
                return
            if not (self._headed and self.cycle.response_started):
                self.transport.write(_NONSENSE)
            self.transport.close()

    def _room_made() -> bool:
        """Whether one that was idle has left for one that asks."""
        for oldest in list(idle)[:_OLDEST]:
            if not oldest.transport.speaks():
                oldest.leave()
                return True
        return False

    return Connection
