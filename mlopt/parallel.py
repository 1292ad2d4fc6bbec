"""One function over many things on the cores that there are, in the order of the things and a few of them ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

_MOST: Final = 4  # each holds a query's memory

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def workers() -> int:
    """How many things are done at a time: the cores that this process may run on, and no more than four."""
    return min(_MOST, len(os.sched_getaffinity(0)))


def mapped(function: Callable[[_Given], _Made], things: Iterable[_Given], count: int | None = None) -> Iterator[_Made]:
    """`map` in `count` threads (`workers()` of them), for functions that spend their time outside of Python.

    At most one result more than there are workers is under way or waits to be taken, however many things there are;
    `things` itself is read in the caller's thread. The first error is raised in its place, and nothing runs on.
    """
    count = workers() if count is None else count
    if count == 1:
        yield from map(function, things)
        return
    with ThreadPoolExecutor(count) as pool:
        ahead: deque[Future[_Made]] = deque()
        try:
            for thing in things:
                ahead.append(pool.submit(function, thing))
                if len(ahead) > count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
