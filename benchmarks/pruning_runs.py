"""Models run for the benchmark of pruning: their answers, and their speed beside each other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mlopt import registry

ROUNDS, SECONDS = 15, 0.15


def speeds(variants: Mapping[str, tuple[Path, str]], feed: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Ratios of the first model's latency to each other's; a round visits all, in turned order."""
    sessions: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        for name, (path, runtime) in variants.items():
            runner = stack.enter_context(_runner(path, runtime))
            sessions[name] = lambda runner=runner: runner.infer(feed)
            sessions[name]()
        return _ratios(sessions)


def _ratios(sessions: Mapping[str, Callable[[], object]]) -> dict[str, dict[str, float]]:
    names = list(sessions)
    ratios: dict[str, list[float]] = {name: [] for name in names[1:]}
    for number in range(ROUNDS):
        order = names[number % len(names) :] + names[: number % len(names)]
        taken = {name: _quickest(sessions[name]) for name in order}
        for name in ratios:
            ratios[name].append(taken[names[0]] / taken[name])
    return {
        name: {"median": statistics.median(seen), "low": sorted(seen)[1], "high": sorted(seen)[-2]}
        for name, seen in ratios.items()
    }


def _quickest(run: Callable[[], object]) -> float:
    """The median of the queries of a while."""
    seen, until = [], time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(seen) < 3:
        began = time.perf_counter()
        run()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen)


def outputs(path: Path, samples: Any, runtime: str = "onnxruntime") -> np.ndarray:
    with _runner(path, runtime) as runner:
        return np.concatenate([runner.infer(feed)[0] for feed in samples.feeds(batch=1)])


def _runner(path: Path, runtime: str) -> Any:
    return registry.load("mlopt.runners", runtime)(path, threads=1)
