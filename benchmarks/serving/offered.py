"""A load that does not wait for answers: so many requests a second are due, whatever became of those before."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serving.load import Connection

_MOST: Final = 900  # connections; the servers take 1000
_TICK: Final = 0.002  # seconds between looks at what is due
_LAST: Final = 60.0  # seconds that the last answers may take


@dataclass(slots=True)
class Offered:
    """What came of it: latencies of good answers in seconds, every other status counted; `cut` requests whose
    connection ended without an answer, and `unsent` ones that were due when no connection was free."""

    seconds: float = 0.0
    sent: int = 0
    unsent: int = 0
    cut: int = 0
    latencies: list[float] = field(default_factory=list)
    others: dict[int, int] = field(default_factory=dict)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("inf")


def offer(port: int, asked: bytes, *, rate: float, seconds: float, each: Callable[[float], None]) -> Offered:
    """Send `asked` `rate` times a second; `each` is called once a second with the seconds since the first."""
    return asyncio.run(_offer(port, asked, rate, seconds, each))


async def _offer(port: int, asked: bytes, rate: float, seconds: float, each: Callable[[float], None]) -> Offered:
    found, free, every = Offered(), list[_Lent](), set[_Lent]()
    opening: set[asyncio.Task[None]] = set()
    began, told, due = time.perf_counter(), 0.0, 0
    while (past := time.perf_counter() - began) < seconds:
        while due < past * rate:
            due += 1
            if free:
                free.pop().lend()
            elif len(every) < _MOST:
                lent = _Lent(asked, found, free, every)
                every.add(lent)
                found.sent += 1
                opening.add(task := asyncio.create_task(lent.open(port)))
                task.add_done_callback(opening.discard)
            else:
                found.unsent += 1
        if past - told >= 1:
            told = past
            each(past)
        await asyncio.sleep(_TICK)
    found.seconds = time.perf_counter() - began
    until = time.perf_counter() + _LAST
    while any(lent.busy for lent in every) and time.perf_counter() < until:
        await asyncio.sleep(_TICK)
    found.cut += sum(lent.busy for lent in every)
    return found


class _Lent(Connection):
    """Of a pool: it goes back there with its answer, and leaves it when the server closes it."""

    def __init__(self, asked: bytes, found: Offered, free: list[_Lent], every: set[_Lent]) -> None:
        super().__init__(asked)
        self.found, self.free, self.every, self.busy = found, free, every, True

    async def open(self, port: int) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
        except OSError:
            self.connection_lost(None)

    def lend(self) -> None:
        self.busy = True
        self.found.sent += 1
        self.ask()

    def answered(self, status: int) -> None:
        if not self.busy:  # more bytes of a reply that was whole
            return
        self.busy = False
        if status == 200:
            self.found.latencies.append(time.perf_counter() - self.began)
        else:
            self.found.others[status] = self.found.others.get(status, 0) + 1
        if self.last:
            self.every.discard(self)
            self.transport.close()
        else:
            self.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.found.cut += self.busy
        self.busy = False
        self.every.discard(self)
        if self in self.free:
            self.free.remove(self)
