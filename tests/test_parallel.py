"""Several at a time, in order, a few ahead, and the first error ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from mlopt import parallel
from mlopt.parallel import mapped


@pytest.fixture(params=[1, 3])
def count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(parallel, "workers", lambda: request.param)
    return int(request.param)


def test_results_come_in_the_order_of_the_things(count: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 * (number == 0))
        return number * number

    assert list(mapped(slow_first, range(20))) == [number * number for number in range(20)]


def test_no_more_are_read_than_there_is_work_for(count: int) -> None:
    read: list[int] = []

    def things() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    results = mapped(lambda number: number, things())
    assert [next(results) for _ in range(5)] == list(range(5))
    assert len(read) <= 5 + count
    results.close()  # type: ignore[attr-defined]
    assert len(read) <= 5 + count


def test_the_first_error_comes_in_its_place(count: int) -> None:
    def breaks(number: int) -> int:
        if number >= 3:
            raise ValueError(number)
        return number

    results = mapped(breaks, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_two_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "workers", lambda: 2)
    both = threading.Barrier(2, timeout=10)
    assert len(list(mapped(lambda _: both.wait(), range(2)))) == 2
