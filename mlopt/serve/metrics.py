"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
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
    """The server's counters, in a registry of their own so that two servers in one process do not mix."""

    def __init__(self, *, model: str, version: str) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._registry = registry
        self.requests = Counter("mlopt_requests", "Requests answered.", ("route", "code"), registry=registry)
        self.latency = Histogram(
            "mlopt_request_seconds", "From request to answer.", ("route",), buckets=_SECONDS, registry=registry
        )
        stage = Histogram(
            "mlopt_stage_seconds", "Time by stage of an inference.", ("stage",), buckets=_SECONDS, registry=registry
        )
        self.queue, self.parse, self.infer = (stage.labels(name) for name in ("queue", "parse", "infer"))
        self.batch = Histogram("mlopt_batch_rows", "Rows of an inference.", buckets=_ROWS, registry=registry)
        self.in_flight = Gauge("mlopt_in_flight", "Inferences running or waiting for a thread.", registry=registry)
        self.refused = Counter("mlopt_refused", "Requests refused: too many wait, or too long.", registry=registry)
        self.ready = Gauge("mlopt_ready", "1 when the model is loaded and warm.", registry=registry)
        self._stages: Gauge | None = None
        info = Gauge("mlopt_model_info", "The model that is served.", ("model", "version"), registry=registry)
        info.labels(model, version).set(1)

    def stage(self, current: str, all: Iterable[str]) -> None:
        """Who answers, where an engine is built at the first start: 1 for `current`, 0 for the others."""
        if self._stages is None:
            what = "1 for who answers: the engine, or the fallback (while building, or for good)."
            self._stages = Gauge("mlopt_engine_status", what, ("status",), registry=self._registry)
        for name in all:
            self._stages.labels(name).set(name == current)

    def text(self) -> bytes:
        """The exposition text."""
        return generate_latest(self._registry)
