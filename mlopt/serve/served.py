"""One model of those that a server holds: loaded, in front of it the line, and what others may know of it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.serve.batching import Batching, why_not
from mlopt.serve.cache import Cache, digest_of
from mlopt.serve.line import Line
from mlopt.serve.memory import container_limit, mib, resident, size_of
from mlopt.serve.metrics import ModelMetrics
from mlopt.serve.model import Model, NotServable, Serving, give_back_memory
from mlopt.serve.settings import Limits
from mlopt.serve.tensors import Rejected

if TYPE_CHECKING:
    from mlopt.serve.first_start import Builds, FirstStart

_LOG: Final = logging.getLogger("mlopt.serve")


class Served:
    """A model by name and version. Its line, its batches and its counters are its own."""

    def __init__(
        self, folder: Path, serving: Serving, *, limits: Limits, metrics: ModelMetrics, builds: Builds | None = None
    ) -> None:
        """Raises `NotServable` when the folder of `builds` is unusable."""
        self.serving, self.limits, self.metrics = serving, limits, metrics
        self._folder = folder
        self._first_start = _first_start(builds, self._note) if builds else None
        self._line: Line | None = None
        self._cache: Cache | None = None

    @property
    def ready(self) -> bool:
        """Loaded, and where an engine was asked for, served by it."""
        served = self._first_start is None or self._first_start.status.stage == "engine"
        return self._line is not None and served

    @property
    def line(self) -> Line:
        """Where requests wait. Raises `Rejected` before it is loaded."""
        if self._line is None:
            raise Rejected(f"the model {self.serving.name} is not loaded yet", status=503, retry_after=1)
        return self._line

    @property
    def has_room(self) -> bool:
        """Whether another request may wait for it, as far as that is known."""
        return self._line is None or self._line.has_room

    def check_ready(self) -> None:
        """Raises `Rejected` that says why it is not ready."""
        if not self.ready and self.line:
            why = self._first_start.status.why if self._first_start else ""
            raise Rejected(f"the fallback answers, and not the engine: {why}", status=503, retry_after=30)

    def metadata(self) -> dict[str, Any]:
        """The body of GET /v2/models/{m}."""
        told = self.serving.metadata()
        if self._first_start is not None:
            told |= {"engine": self._first_start.status.as_json()}
            told["platform"] = "tensorrt_plan" if self.ready else told["platform"]
        return told

    async def load(self) -> None:
        """Load in a thread; then become ready between two requests, so that the log never has one before `ready`.

        Raises `NotServable`.
        """
        began = time.perf_counter()
        model, batching = await asyncio.to_thread(self._load)
        self._line = Line(model, limits=self.limits, batching=batching, metrics=self.metrics, cache=self._cache)
        if self._first_start is not None:
            self._first_start.begin(model)
        self._note()
        _LOG.info(
            "ready" if self._first_start is None else "fallback ready",
            extra={
                "model": self.serving.name,
                "version": self.serving.version,
                "threads": model.threads,
                "batch": batching.largest if batching else 1,
                "load_ms": round((time.perf_counter() - began) * 1e3, 1),
                "memory_mib": resident() >> 20,
                "pid": os.getpid(),
            },
        )

    def withdraw(self) -> None:
        """Say that it is no longer ready; what waits is still answered."""
        self.metrics.ready.set(0)

    def close(self) -> None:
        """End its threads, after what waits, and what builds or runs its engine."""
        if self._first_start is not None:
            self._first_start.stop()
        if self._line is not None:
            self._line.close()

    def _note(self) -> None:
        """Who answers may be another now; called from the thread that builds, too."""
        if self._first_start is not None:
            from mlopt.serve.first_start import STAGES

            self.metrics.stage(self._first_start.status.stage, STAGES)
            if self._cache is not None:
                self._cache.renew(self._first_start.status.stage)
        self.metrics.ready.set(self.ready)

    def _load(self) -> tuple[Model, Batching | None]:
        self._check_memory(size_of)
        model = Model(self._folder, self.serving)
        model.warm_up()
        batching = self._batching(model)
        if self.limits.cache:
            self._cache = Cache(self.limits.cache, digest=digest_of(self._folder), metrics=self.metrics)
        give_back_memory()
        self._check_memory(None)
        return model, batching

    def _check_memory(self, more: Callable[[Path], int] | None) -> None:
        """Before it is loaded what its files add, afterwards what is taken, against what may be."""
        limit, most = self.limits.memory, container_limit() if more else None
        if limit is None and most is None:
            return
        taken = resident() + (more(self._folder) if more else 0)
        if limit is not None and taken > limit:
            takes = f"{'at least ' if more else ''}{mib(taken)}"
            raise NotServable(
                f"with {self.serving.name}, version {self.serving.version}, it takes {takes} of memory; "
                f"--max-memory allows {mib(limit)}: serve fewer models, or allow more"
            )
        if most is not None and taken > most:
            # It may still go well: the system can drop pages of files. If it does not, this is the reason of the kill.
            fields = {"model": self.serving.name, "needs": mib(taken), "container": mib(most)}
            _LOG.warning("memory is short", extra=fields)

    def _batching(self, model: Model) -> Batching | None:
        """As the options say, else serving.json; none where the model does not take batches, as the log says."""
        told = self.serving.batching
        largest = self.limits.batch or (told.largest if told else 1)
        delay = self.limits.delay if self.limits.delay is not None else (told.delay if told else 0.0)
        if largest == 1:
            return None
        if reason := why_not(model):
            _LOG.warning("no batching", extra={"model": self.serving.name, "reason": reason})
            return None
        return Batching(largest, delay)


def _first_start(builds: Builds, changed: Callable[[], None]) -> FirstStart:
    from mlopt.serve.first_start import FirstStart  # nobody else pays for it

    return FirstStart(builds, changed)
