"""The server scenario: arrivals, what a queue does, and the search against servers whose highest rate is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets import conv_net, save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.errors import Misused
from mlopt.measure import server
from mlopt.measure.alone import cold_start, loaded
from mlopt.measure.bench import bench
from mlopt.measure.interleave import Subject
from mlopt.measure.server import arrivals, highest_rate, predicted_rate
from mlopt.measure.text import said, to_terminal
from mlopt.profile import Method
from mlopt.units import Seconds


class Queue:
    """A worker whose queries take a known time each: what it answers follows from the arrivals alone."""

    def __init__(self, service: float) -> None:
        self.service = service
        self.rates: list[float] = []

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        if do == "query":
            return {"seconds": [self.service] * given["count"]}
        free, times = 0.0, []
        late = given["late"]
        for due in given["arrivals"]:
            free = max(free, due) + self.service
            times.append(free - due)
            late -= times[-1] > given["bound"]
            if late <= 0:
                break
        return {"seconds": times}


def test_arrivals_are_poisson_and_the_same_at_every_rate() -> None:
    slow, fast = arrivals(10.0, 20_000, seed=3), arrivals(40.0, 20_000, seed=3)
    gaps = np.diff(fast)
    assert statistics.mean(gaps) == pytest.approx(1 / 40, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 40, rel=0.03)  # an exponential's spread is its mean
    assert [one * 4 for one in fast] == pytest.approx(slow)
    assert arrivals(10.0, 5, seed=3) == arrivals(10.0, 5, seed=3) != arrivals(10.0, 5, seed=4)


def theory(service: float, bound: float) -> float:
    """The rate at which 99 of 100 queries of an M/D/1 queue keep the bound, by Crommelin's formula (1932)."""
    room = bound / service - 1  # what may be waited, in service times

    def keeps(load: float) -> float:
        terms = range(math.floor(room) + 1)
        return (1 - load) * sum(
            (load * (k - room)) ** k / math.factorial(k) * math.exp(-load * (k - room)) for k in terms
        )

    low, high = 0.0, 1.0
    for _ in range(50):
        load = (low + high) / 2
        low, high = (load, high) if keeps(load) >= 0.99 else (low, load)
    return low / service


@pytest.mark.parametrize("bound", [0.020, 0.030, 0.050])
def test_a_queue_of_constant_service_is_predicted_as_theory_has_it(bound: float) -> None:
    rates = [predicted_rate([0.010], bound, seed=seed) for seed in range(5)]
    assert statistics.median(rates) == pytest.approx(theory(0.010, bound), rel=0.08)


@pytest.mark.parametrize("bound", [0.020, 0.030, 0.050])
def test_the_search_ends_a_little_below_what_theory_has(bound: float) -> None:
    """Below, for what is late has to be proven rare."""
    found = highest_rate(Queue(0.010), bound, seconds=1e5)  # type: ignore[arg-type]
    assert found.rate
    assert found.not_held
    assert found.not_held / found.rate <= 1.051
    assert 0.75 < found.rate / theory(0.010, bound) < 1.02
    assert {one.outcome for one in found.trials if one.rate <= found.rate} == {"holds"}


def test_a_prediction_that_is_far_off_is_left_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (30.0, 1 / 30):
        right = predicted_rate([0.010], 0.05)
        monkeypatch.setattr(server, "predicted_rate", lambda *_, seed, at=right * factor: at)
        found = highest_rate(Queue(0.010), 0.05, seconds=1e5)  # type: ignore[arg-type]
        assert 0.7 < found.rate / right < 1.05
        monkeypatch.undo()


class Moody(Queue):
    """One query in twenty is late however few there are, as on a machine that is taken away now and then."""

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        if do == "query":
            return super().ask(do, **given)
        self.rates.append(len(given["arrivals"]) / given["arrivals"][-1])
        return {"seconds": [2 * given["bound"] if n % 20 == 0 else self.service for n in range(len(given["arrivals"]))]}


def test_a_search_without_hope_ends_while_queries_still_come() -> None:
    moody = Moody(0.001)
    found = highest_rate(moody, 0.01, seconds=1.0)  # type: ignore[arg-type]
    assert found.rate is None
    assert found.trials
    assert min(moody.rates) > 20, "at a fortieth of its load nobody waits: slower arrivals only take longer"


def test_a_bound_below_a_single_query_is_said_without_a_trial() -> None:
    found = highest_rate(Queue(0.010), 0.005, seconds=10.0)  # type: ignore[arg-type]
    assert (found.rate, found.trials) == (None, ())
    assert f"{found.single_late} of 200 single queries alone took longer" in said(found)


@contextmanager
def real(tmp_path: Path) -> Iterator[tuple[Subject, list[dict[str, np.ndarray]]]]:
    model = save(conv_net(), tmp_path / "net.onnx")
    yield (
        Subject("net", Artifact(ONNX, digest_of(model), model), "onnxruntime"),
        [{"image": np.zeros((1, 3, 32, 32), np.float32)}],
    )


def test_a_real_worker_answers_when_queries_arrive(tmp_path: Path) -> None:
    with real(tmp_path) as (subject, feeds), loaded(subject, feeds, threads=1) as worker:
        due = arrivals(200.0, 60, seed=0)
        times = worker.ask("serve", arrivals=due, bound=10.0, late=60)["seconds"]
        assert len(times) == 60
        assert all(0 < one < 5 for one in times)
        late = worker.ask("serve", arrivals=due, bound=0.0, late=7)["seconds"]
        assert len(late) == 7


def test_a_cold_start_is_longer_than_a_load(tmp_path: Path) -> None:
    with real(tmp_path) as (subject, feeds):
        taken = cold_start(subject, feeds, threads=1, files=[subject.artifact.main])
    assert 0.05 < taken < 60


@pytest.mark.slow
def test_bench_as_a_server_and_with_many_streams(tmp_path: Path) -> None:
    model = save(conv_net(), tmp_path / "net.onnx")
    method = Method(warm_up=1, rounds=4, seconds=Seconds(2.0), scenario="server")
    with pytest.raises(Misused, match="needs a bound"):
        bench([model], method=method, device="d")
    found = bench([model], method=method, device="d", bound=5.0)
    (one,) = found.models
    assert one.server
    assert one.server.rate
    assert one.server.rate > 1
    assert len(one.server.trials) <= 10, "a bound that no rate breaks is not searched for ever"
    assert one.measurement.scenario == "single-stream"
    assert "as a server" in to_terminal(found, width=100)
    streams = bench(
        [model], method=Method(warm_up=1, rounds=4, seconds=Seconds(0.3), scenario="multi-stream"), device="d"
    )
    assert (streams.models[0].measurement.scenario, streams.models[0].measurement.batch) == ("multi-stream", 8)
    assert streams.models[0].server is None
