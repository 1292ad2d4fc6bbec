"""Counting by the kernel's counters: the call itself on what every kernel counts, instructions where they are let."""

from __future__ import annotations

import mmap
import os
import threading

import pytest

from mlopt.measure.instructions import PAGE_FAULTS, Counter

MANY = 512


def touch() -> None:
    with mmap.mmap(-1, MANY * mmap.PAGESIZE) as fresh:
        fresh.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(MANY):
            fresh[page * mmap.PAGESIZE] = 1


def test_what_every_kernel_counts_is_counted_also_of_later_threads() -> None:
    counter = Counter.open(PAGE_FAULTS)
    if counter is None:
        pytest.skip("this kernel lets nobody count its events (perf_event_paranoid)")
    try:
        before = counter.read()
        touch()
        alone = counter.read() - before
        assert MANY <= alone < 2 * MANY
        thread = threading.Thread(target=touch)
        thread.start()
        thread.join()
        assert counter.read() - before - alone >= MANY
    finally:
        os.close(counter.file)


def test_no_event_no_counter() -> None:
    assert Counter.open((99, 99)) is None


def test_the_same_work_counts_the_same() -> None:
    counter = Counter.open()
    if counter is None:
        pytest.skip("this processor's counters cannot be read")
    counts = []
    for _ in range(5):
        before = counter.read()
        sum(range(100_000))
        counts.append(counter.read() - before)
    os.close(counter.file)
    assert min(counts) > 100_000
    assert sorted(counts)[2] < 1.01 * min(counts)
