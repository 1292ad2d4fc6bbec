"""What a connection writes to: the transport, which ends so that the other side can still read its answer."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Callable
from typing import Any, Final

_LINGER: Final = 2.0  # seconds


class Wire:
    """The calls that uvicorn makes of a transport.

    The head of an answer is kept until its body is there: one system call and one packet for both. And who is still
    sending when it is closed is heard out for a while: the kernel would answer its bytes with a reset, which takes the
    answer before them away.
    """

    def __init__(self, raw: asyncio.Transport, *, heard_out: Callable[[], bool]) -> None:
        self._raw, self._heard_out = raw, heard_out
        self._head, self._ending = b"", False
        self._linger: asyncio.TimerHandle | None = None
        self.get_extra_info, self.pause_reading = raw.get_extra_info, raw.pause_reading
        self.resume_reading = raw.resume_reading

    def write(self, data: bytes) -> None:
        """Nothing where it is closed."""
        if self._ending:
            return
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and data[9:10] != b"1":
            self._head = data
            return
        self._raw.write(data)

    def flush(self) -> None:
        """The answer has no body: its head goes alone."""
        if self._head:
            head, self._head = self._head, b""
            self._raw.write(head)

    def is_closing(self) -> bool:
        return self._ending or self._raw.is_closing()

    def close(self) -> None:
        if self._ending:
            return
        self.flush()
        self._ending = True
        if self._raw.can_write_eof() and not self._raw.is_closing():
            with contextlib.suppress(OSError):  # the other side has reset it, which nobody has read yet
                self._raw.write_eof()  # at once: it must not ask again
            if not self._heard_out():
                self._raw.resume_reading()
                self._linger = asyncio.get_running_loop().call_later(_LINGER, self._raw.abort)
                return
        self._raw.close()

    def lost(self) -> None:
        """The transport is gone."""
        self._ending = True
        if self._linger is not None:
            self._linger.cancel()

    def read_at_once(self, count: int) -> None:
        """So many bytes; TLS reads by records."""
        if hasattr(self._raw, "max_size"):
            self._raw.max_size = count

    def speaks(self) -> bool:
        """Whether something has come that nobody has read yet, an end too."""
        found: Any = self._raw.get_extra_info("socket")
        if found is None or found.fileno() < 0:
            return False
        look = select.poll()
        look.register(found.fileno(), select.POLLIN)
        return bool(look.poll(0))


def give_up_on_deaf_readers(transport: asyncio.Transport, seconds: float) -> None:
    """The kernel ends a connection whose other side takes nothing of what is sent for this long."""
    raw: Any = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):  # it is gone already
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))
