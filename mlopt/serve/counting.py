"""Counters, gauges and histograms that cost a request next to nothing; prometheus-client writes them down when asked.

It takes a tenth of the start to import, and its own counters a tenth of a small request: here it is needed first when
somebody reads /metrics.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Counter:
    """Counts up; from any thread."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self.value, self._lock = 0, Lock()

    def inc(self) -> None:
        """One more."""
        with self._lock:
            self.value += 1


class Gauge:
    """Goes up and down; or is asked for its value when somebody reads it."""

    __slots__ = ("_read",)

    def __init__(self) -> None:
        self.set(0)

    @property
    def value(self) -> float:
        return self._read()

    def set(self, value: float) -> None:
        """From now on it is this."""
        self._read: Callable[[], float] = lambda: float(value)

    def set_function(self, read: Callable[[], float]) -> None:
        """From now on it is what this says."""
        self._read = read


class Histogram:
    """Counts values by the bounds that they stay within; from any thread."""

    __slots__ = ("_lock", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.total = tuple(bounds), [0] * (len(bounds) + 1), 0.0
        self._lock = Lock()

    def observe(self, value: float) -> None:
        """Count it."""
        place = bisect_left(self.bounds, value)
        with self._lock:
            self.counts[place] += 1
            self.total += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """How many were within each bound, which includes those within lower ones; and their sum."""
        with self._lock:
            counts, total = list(self.counts), self.total
        found, seen = [], 0
        for bound, count in zip((*self.bounds, float("inf")), counts, strict=True):
            seen += count
            found.append(("+Inf" if bound == float("inf") else str(float(bound)), float(seen)))
        return found, total


_One = TypeVar("_One", Counter, Gauge, Histogram)


class Family(Generic[_One]):
    """One kind of thing counted, by the values of its labels."""

    def __init__(self, kind: str, name: str, what: str, labels: Sequence[str], make: Callable[[], _One]) -> None:
        self._kind, self._name, self._what, self._labels = kind, name, what, tuple(labels)
        self._make: Callable[[], _One] = make
        self._ones: dict[tuple[str, ...], _One] = {}

    def labels(self, *values: str) -> _One:
        """The one with these values; new where nobody has counted with them."""
        found = self._ones.get(values)
        # Two threads that both find none still get the same one.
        return found if found is not None else self._ones.setdefault(values, self._make())

    def metric(self) -> Metric:
        """As prometheus-client writes it."""
        from prometheus_client import core

        found: Any = getattr(core, f"{self._kind}MetricFamily")(self._name, self._what, labels=self._labels)
        for values, one in list(self._ones.items()):
            found.add_metric(values, *(one.buckets() if isinstance(one, Histogram) else (one.value,)))
        family: Metric = found
        return family


class Families:
    """All that is counted in one server."""

    def __init__(self) -> None:
        self._all: list[Family[Any]] = []

    def counter(self, name: str, what: str, labels: Sequence[str]) -> Family[Counter]:
        return self._with(Family("Counter", name, what, labels, Counter))

    def gauge(self, name: str, what: str, labels: Sequence[str]) -> Family[Gauge]:
        return self._with(Family("Gauge", name, what, labels, Gauge))

    def histogram(self, name: str, what: str, labels: Sequence[str], *, bounds: Sequence[float]) -> Family[Histogram]:
        return self._with(Family("Histogram", name, what, labels, lambda: Histogram(bounds)))

    def text(self) -> bytes:
        """What Prometheus reads, with what the process takes."""
        from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)  # it collects, which is all that is called
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """For prometheus-client."""
        return (family.metric() for family in self._all)

    def _with(self, family: Family[_One]) -> Family[_One]:
        self._all.append(family)
        return family
