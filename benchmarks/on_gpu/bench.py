"""Clocks of the GPU benchmark: variants side by side, a synchronised host clock, NVML readings."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Call = Callable[[], object]


@dataclass
class Bench:
    """The device, how long a visit takes, how often each variant is visited, and when nothing more is begun."""

    device: str
    visit: float
    rounds: int
    ends: float
    only: tuple[str, ...] = ()
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def on(cls, device: str, seconds: float, only: tuple[str, ...] = ()) -> Bench:
        visit, rounds = (0.05, 10) if device == "cuda" else (0.001, 1)
        return cls(device, visit, rounds, time.monotonic() + seconds, only)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def left(self) -> float:
        return self.ends - time.monotonic()

    def skip(self, what: str, why: str) -> None:
        self.skipped.append(f"{what}: {why}")
        print(f"skipped {what}: {why}", flush=True)

    def attempt(self, what: str, make: Call) -> Any:
        """What `make` gives; None, and said why, when the time is over or it fails: the other cases go on."""
        if self.left() <= 0:
            self.skip(what, "the time given was over")
            return None
        try:
            return make()
        except Exception as error:
            traceback.print_exc()
            self.skip(what, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:300])
            return None
        finally:
            gc.collect()

    def sync(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def timed(self, call: Call) -> float:
        """Seconds from the call until the device has nothing left to do."""
        start = time.perf_counter()
        call()
        self.sync()
        return time.perf_counter() - start

    def side_by_side(self, calls: dict[str, Call]) -> dict[str, dict[str, Any]]:
        """p50, p95, and per-round ratios to the first variant; every round visits all, in turned order (ABBA)."""
        self.sync()
        for call in calls.values():  # kernels are chosen and loaded, clocks go up
            began = time.perf_counter()
            while time.perf_counter() - began < self.visit:
                self.timed(call)
        visits: dict[str, list[list[float]]] = {name: [] for name in calls}
        for number in range(self.rounds):
            for name in list(calls) if number % 2 == 0 else list(calls)[::-1]:
                began, times = time.perf_counter(), []
                while len(times) < 3 or time.perf_counter() - began < self.visit:
                    times.append(self.timed(calls[name]))
                visits[name].append(times)
        first = [statistics.median(times) for times in next(iter(visits.values()))]
        return {name: _figures(rounds, first) for name, rounds in visits.items()}


def graph(call: Call) -> Call:
    """The kernels of one call, recorded once and replayed: the host launches one thing.

    A graph reads and writes the memory that it was recorded with, so the call and all it holds must live on.
    """
    import torch

    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        made = call()
    kept = (call, made)

    def replay() -> object:
        recorded.replay()
        return kept

    return replay


def _figures(visits: list[list[float]], first: list[float]) -> dict[str, Any]:
    times = sorted(second for visit in visits for second in visit)
    ratios = sorted(base / statistics.median(visit) for base, visit in zip(first, visits, strict=True))
    return {
        "p50": times[len(times) // 2],
        "p95": times[min(len(times) - 1, int(len(times) * 0.95))],
        "queries": len(times),
        "times_faster": {"least": ratios[0], "median": statistics.median(ratios), "most": ratios[-1]},
    }


def readings(bench: Bench) -> dict[str, Any]:
    """Driver, clocks, power and memory as NVML reads them now; nothing is set."""
    if not bench.cuda:
        return {}
    from mlopt.nvml import NvmlError, card_of, cuda_identity

    try:
        card = card_of(cuda_identity())
    except NvmlError as error:
        return {"error": str(error)}
    asked: dict[str, Call] = {
        "driver": lambda: card.driver,
        "sm_clock_mhz": lambda: card.clocks()[0],
        "memory_clock_mhz": lambda: card.clocks()[1],
        "power_w": card.power,
        "power_limit_w": card.power_limit,
        "temperature_c": card.temperature,
        "memory_used": card.used,
        "held_back": lambda: sorted(card.reasons()),
    }
    answers: dict[str, Any] = {}
    for name, ask in asked.items():
        try:
            answers[name] = ask()
        except NvmlError as error:
            answers[name] = f"not read: {error}"
    return answers
