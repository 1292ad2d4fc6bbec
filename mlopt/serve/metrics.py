"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from mlopt.serve.counting import Families, Family, Gauge

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MODEL: Final = ("model", "version")
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS: Final = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class Metrics:
    """The server's counters, of their own so that two servers in one process do not mix."""

    def __init__(self) -> None:
        self._families = made = Families()
        # A request that names no model that is served has empty labels for it.
        self.requests = made.counter("mlopt_requests", "Requests answered.", ("route", "code", *MODEL))
        self.latency = made.histogram(
            "mlopt_request_seconds", "From request to answer.", ("route", *MODEL), bounds=_SECONDS
        )
        self.stages = made.histogram(
            "mlopt_stage_seconds", "Time by stage of an inference.", ("stage", *MODEL), bounds=_SECONDS
        )
        self.batch = made.histogram("mlopt_batch_rows", "Rows of an inference.", MODEL, bounds=_ROWS)
        self.in_flight = made.gauge("mlopt_in_flight", "Inferences running or waiting for a thread.", MODEL)
        self.refused = made.counter("mlopt_refused", "Requests refused: too many wait, or too long.", MODEL)
        self.ready = made.gauge("mlopt_ready", "1 when the model is loaded and warm.", MODEL)
        self.info = made.gauge("mlopt_model_info", "The models that are served.", MODEL)
        asked = "Inferences that were looked up in the cache of answers: hit or miss."
        self.cache = made.counter("mlopt_cache_requests", asked, ("result", *MODEL))
        self.cached = made.gauge("mlopt_cache_bytes", "What the kept answers take.", MODEL)
        self._engine: Family[Gauge] | None = None

    @property
    def engine(self) -> Family[Gauge]:
        """Who answers, where an engine is built at the first start."""
        if self._engine is None:
            what = "1 for who answers: the engine, or the fallback (while building, or for good)."
            self._engine = self._families.gauge("mlopt_engine_status", what, ("status", *MODEL))
        return self._engine

    def text(self) -> bytes:
        """The exposition text."""
        return self._families.text()


class ModelMetrics:
    """The counters of one model."""

    def __init__(self, metrics: Metrics, *, model: str, version: str) -> None:
        self.labels: Final = (model, version)
        self._metrics = metrics
        self.queue, self.parse, self.infer = (
            metrics.stages.labels(name, *self.labels) for name in ("queue", "parse", "infer")
        )
        self.batch = metrics.batch.labels(*self.labels)
        self.in_flight = metrics.in_flight.labels(*self.labels)
        self.refused = metrics.refused.labels(*self.labels)
        self.ready = metrics.ready.labels(*self.labels)
        metrics.info.labels(*self.labels).set(1)

    def cache(self) -> None:
        """Count what the cache of answers does, from now on."""
        self.hits, self.misses = (self._metrics.cache.labels(result, *self.labels) for result in ("hit", "miss"))
        self.cached = self._metrics.cached.labels(*self.labels)

    def stage(self, current: str, all: Iterable[str]) -> None:
        """Who answers now: 1 for `current`, 0 for the others."""
        for name in all:
            self._metrics.engine.labels(name, *self.labels).set(name == current)
