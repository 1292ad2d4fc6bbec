"""Where requests wait: in the order of arrival, worked off by a few threads, several at once where batching is on."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Final

import numpy as np

from mlopt.serve.batching import Batching, grouped, joined, parted
from mlopt.serve.cache import HEADER, Cache
from mlopt.serve.call import Answer, Call, Spent
from mlopt.serve.metrics import ModelMetrics
from mlopt.serve.model import Model
from mlopt.serve.settings import Limits
from mlopt.serve.tensors import Rejected

_QUICK: Final = 5e-4  # seconds for which the event loop may be held up
_ARRIVING: Final = 64  # bodies under way beyond those that there is room for
_SLOW: Final = 5.0  # seconds; who takes longer to send one takes no place from others
_FORGET: Final = 0.9  # the slowest of late counts, and fades


@dataclass(slots=True)
class _Job:
    read: Callable[[], Call]
    answered: asyncio.Future[Answer]
    arrived: float


@dataclass(frozen=True, slots=True)
class _Ready:
    job: _Job
    call: Call
    parse: float
    key: bytes | None = None


_Outcome = tuple[_Job, Answer | Exception]


class Line:
    """The line before a model. Used from one event loop; reading, inference and writing happen in its threads.

    A thread takes what waits, reads it and computes it; a large body never holds up health.
    """

    def __init__(
        self,
        model: Model,
        *,
        limits: Limits,
        batching: Batching | None,
        metrics: ModelMetrics,
        cache: Cache | None = None,
    ) -> None:
        self._model, self._batching, self._metrics, self._cache = model, batching, metrics, cache
        self._most, self._patience = limits.concurrency + limits.waiting, limits.patience
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._gathering = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._busy = 0
        self._arriving: dict[object, float] = {}
        self._slowest = 1.0
        metrics.in_flight.set_function(lambda: self._busy)
        self._threads = [
            threading.Thread(target=self._work, name=f"infer-{place}", daemon=True)
            for place in range(limits.concurrency)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads, after what waits."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def has_room(self) -> bool:
        """Whether another may wait."""
        return self._busy < self._most

    def check_room(self) -> None:
        """Raise `Rejected` (503) when no more may wait: before a body is read for nothing, too."""
        if not self.has_room:
            raise self._refused()

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """While a body is read: of a crowd that comes at once only so many bodies are. Raises `Rejected` (503)."""
        self.check_room()
        now, places = self._loop.time(), self._arriving
        while places and next(iter(places.values())) < now - _SLOW:
            del places[next(iter(places))]
        if self._busy + len(places) >= self._most + _ARRIVING:
            raise self._refused()
        place = object()
        places[place] = now
        try:
            yield
        finally:
            places.pop(place, None)

    async def answer(self, read: Callable[[], Call], *, small: bool) -> Answer:
        """The answer to a request that `read` reads. Raises `Rejected`, also when too many or too long wait.

        A `small` request to a quick model is worked off at once, where nobody waits: two changes of thread would cost
        more than the model.
        """
        self.check_room()
        job = _Job(read, self._loop.create_future(), time.perf_counter())
        if small and not self._busy and self._slowest < _QUICK and self._batching is None:
            ((_, outcome),) = next(self._outcomes([job]))
            if isinstance(outcome, Answer):
                return outcome
            raise outcome
        self._busy += 1
        self._queue.put(job)
        try:
            return await job.answered
        finally:
            self._busy -= 1

    def _refused(self) -> Rejected:
        self._metrics.refused.inc()
        return Rejected("too many requests wait already", status=503, retry_after=1, busy=True)

    def _work(self) -> None:
        while jobs := self._gather():
            try:
                for outcomes in self._outcomes(jobs):
                    self._deliver(outcomes)
            except Exception as error:
                # A bug: those who wait get it, as the one request with it would, and the thread lives.
                self._deliver([(job, error) for job in jobs])

    def _outcomes(self, jobs: Sequence[_Job]) -> Iterator[list[_Outcome]]:
        """What becomes of them, as soon as it is known."""
        began, ready = time.perf_counter(), []
        for job in jobs:
            self._metrics.queue.observe(began - job.arrived)
            read = self._read(job)
            if not isinstance(read, _Ready):
                yield [(job, read)]
            elif self._cache and read.key and (kept := self._cache.get(read.key)):
                yield [_written(read, kept, 0.0, "hit")]
            else:
                ready.append(read)
        if self._batching is None or len(ready) < 2:
            groups = [[one] for one in ready]
        else:
            groups = grouped(ready, call_of=lambda one: one.call, most=self._batching.largest)
        for group in groups:
            outcomes = self._computed(group)
            self._slowest = max(time.perf_counter() - began, _FORGET * self._slowest)
            yield outcomes

    def _gather(self) -> list[_Job]:
        """The next request; with batching, those that come within its delay too. Empty when the line is closed."""
        if self._batching is None:
            job = self._queue.get()
            return [] if job is None else [job]
        # One thread fills its batch before the next begins one: two would halve them.
        with self._gathering:
            job = self._queue.get()
            jobs: list[_Job] = []
            until = (job.arrived if job else 0.0) + self._batching.delay
            while job is not None:
                jobs.append(job)
                if len(jobs) == self._batching.largest:
                    break
                try:
                    left = until - time.perf_counter()
                    job = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
                except Empty:
                    break
            else:
                if jobs:
                    self._queue.put(None)
            return jobs

    def _read(self, job: _Job) -> _Ready | Exception:
        began = time.perf_counter()
        if job.answered.cancelled():  # its time to finish is over: nobody waits for what would be computed
            return Rejected("the server stops", status=503)
        if began - job.arrived > self._patience:
            self._metrics.refused.inc()
            return Rejected(f"it waited longer than {self._patience:g} s", status=503, retry_after=1, busy=True)
        try:
            call = job.read()
            key = self._cache.key(call) if self._cache else None
        except Exception as error:
            return error
        took = time.perf_counter() - began
        self._metrics.parse.observe(took)
        return _Ready(job, call, took, key)

    def _computed(self, group: Sequence[_Ready]) -> list[_Outcome]:
        began, calls = time.perf_counter(), [ready.call for ready in group]
        feeds = calls[0].feeds if len(calls) == 1 else joined([call.feeds for call in calls])
        try:
            arrays = self._model.infer(feeds, outputs=calls[0].outputs)
            parts = [arrays] if len(calls) == 1 else parted(arrays, [call.rows for call in calls])
        except Rejected as error:
            if len(calls) == 1:
                return [(group[0].job, error)]
            # One of them is at fault, and the others shall not pay for it.
            return [outcome for ready in group for outcome in self._computed([ready])]
        took = time.perf_counter() - began
        self._metrics.infer.observe(took)
        self._metrics.batch.observe(sum(call.rows for call in calls))
        for ready, part in zip(group, parts, strict=True):
            if self._cache and ready.key:
                self._cache.put(ready.key, part)
        told = "miss" if self._cache else ""
        return [_written(ready, part, took, told) for ready, part in zip(group, parts, strict=True)]

    def _deliver(self, outcomes: list[_Outcome]) -> None:
        if outcomes:
            with contextlib.suppress(RuntimeError):  # the loop was stopped by force: nobody waits any more
                self._loop.call_soon_threadsafe(_settle, outcomes)


def _written(ready: _Ready, arrays: Mapping[str, np.ndarray], took: float, cache: str) -> _Outcome:
    try:
        answer = ready.call.encode(arrays, Spent(ready.parse, took))
        return ready.job, replace(answer, headers={**answer.headers, HEADER: cache}) if cache else answer
    except Exception as error:
        return ready.job, error


def _settle(outcomes: list[_Outcome]) -> None:
    for job, outcome in outcomes:
        if job.answered.done():  # its client's task was cancelled
            continue
        if isinstance(outcome, Answer):
            job.answered.set_result(outcome)
        else:
            job.answered.set_exception(outcome)
