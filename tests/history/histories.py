"""Made histories: seeded numbers with changes at known commits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np

from mlopt.history.entry import Entry, Number

START = datetime(2026, 9, 1, 8, tzinfo=UTC)


def made(count: int = 40, *, slower_from: int | None = 28, larger_from: int | None = 15, seed: int = 0) -> list[Entry]:
    """A reference and a model beside it, at one commit each day; from some days on slower by 8 % and larger by 4 kB."""
    return list(_made(count, slower_from, larger_from, np.random.default_rng(seed)))


def _made(count: int, slower_from: int | None, larger_from: int | None, draw: np.random.Generator) -> Iterator[Entry]:
    mood = 0.0
    for day in range(count):
        mood = 0.8 * mood + draw.normal(0, 0.05)
        reference = 0.010 * math.exp(mood + draw.normal(0, 0.01))
        slower = 1.08 if slower_from is not None and day >= slower_from else 1.0
        ratio = 0.6 * slower * math.exp(draw.normal(0, 0.012))
        size = 40_000 + (4_000 if larger_from is not None and day >= larger_from else 0)
        yield entry(day, model="reference.onnx", baseline="", numbers=_numbers(reference, 60_000))
        beside = {"relative-latency": Number(ratio, ratio * 0.98, ratio * 1.02)}
        yield entry(
            day, model="net.onnx", baseline="sha256:aa", numbers={**_numbers(reference * ratio, size), **beside}
        )


def entry(day: int, *, model: str, baseline: str, numbers: dict[str, Number], **given: object) -> Entry:
    facts: dict[str, object] = {
        "time": (START + timedelta(days=day)).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "verb": "bench",
        "model": model,
        "variant": "",
        "digest": "sha256:bb",
        "baseline": baseline,
        "runtime": "onnxruntime",
        "scenario": "single-stream",
        "threads": 1,
        "batch": 1,
        "device": "Some CPU, 2 cores",
        "versions": {"mlopt": "0.1.0", "onnxruntime": "1.31.1" if day >= 20 else "1.30.0"},
        "samples": "",
        "revision": revision(day),
        "dirty": False,
        "numbers": numbers,
    }
    return Entry(**{**facts, **given})  # type: ignore[arg-type]


def revision(day: int) -> str:
    return hashlib.sha1(str(day).encode()).hexdigest()


def _numbers(latency: float, size: int) -> dict[str, Number]:
    return {"latency-p50": Number(latency), "peak-memory": Number(5e7), "file-size": Number(float(size))}
