"""MLPerf's own load generator beside our clocks: `python -m mlopt.measure.worker` runs a model under it.

The extra `[loadgen]`. It asks from its own thread, in this process, and writes a log; what it found is read from there.
The same queries are timed by us meanwhile, so that the two can be compared without the machine in between.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlopt.measure.process import Worker
    from mlopt.measure.server import ServerRate
    from mlopt.measurement import Measurement
    from mlopt.runners.runner import Runner

DISTRIBUTION: Final = "mlcommons-loadgen"
_SCENARIOS: Final = {
    "single-stream": "SingleStream",
    "multi-stream": "MultiStream",
    "offline": "Offline",
    "server": "Server",
}
_LEAST: Final = {"single-stream": 64, "multi-stream": 662, "offline": 1, "server": 662}  # queries for a bound
_BOUNDS: Final = {"single-stream": "early_stopping_latency_ss", "multi-stream": "early_stopping_latency_ms"}
_MARK: Final = ":::MLLOG "
_LIMIT: Final = 10  # times the duration, before it gives up
_SOONER: Final = 0.7  # what is told to be expected: it makes its queries beforehand, and runs out of them otherwise


@dataclass(frozen=True, slots=True)
class LoadGenResult:
    """What LoadGen says. `valid` is its own verdict, `why_not` its reason; `bound` its early-stopping estimate of the
    90th percentile (99th of multi-stream), None in other scenarios.

    Percentiles in seconds (of offline, of the one query that holds all samples), rates in samples per second: of a
    server those that were asked and completed. `ours` are the same numbers by our clock on the same queries; a server's
    waiting is known to LoadGen alone.
    """

    version: str
    scenario: str
    valid: bool
    why_not: str
    queries: int
    p50: float
    p90: float
    p99: float
    bound: float | None
    samples_per_second: float
    scheduled: float | None
    ours: Mapping[str, float]


def run(
    scenario: str,
    runner: Runner,
    feeds: Sequence[Mapping[str, Any]],
    *,
    batch: int,
    expected: float,
    seconds: float,
    rate: float | None = None,
    latency: float | None = None,
) -> dict[str, Any]:
    """One test of LoadGen's, as the fields of `LoadGenResult`. A feed holds `batch` samples and takes about `expected`
    seconds; of a server `rate` is asked and `latency` its bound. Queries are computed one at a time, in order."""
    import mlperf_loadgen as lg

    settings = _settings(scenario, batch, expected, seconds, rate, latency)
    taken: list[float] = []

    def issue(samples: Sequence[Any]) -> None:
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            began = time.perf_counter()
            runner.infer(feeds[part[0].index % len(feeds)])
            taken.append(time.perf_counter() - began)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(one.id, 0, 0) for one in part])

    system, library = lg.ConstructSUT(issue, _nothing), lg.ConstructQSL(len(feeds), len(feeds), _nothing, _nothing)
    with tempfile.TemporaryDirectory(prefix="mlopt-loadgen-") as folder:
        logs = lg.LogSettings()
        logs.enable_trace = False
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        try:
            lg.StartTestWithLogSettings(system, library, settings, logs, "")
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
        return _read(Path(folder, "mlperf_log_detail.txt").read_text(), scenario, taken, batch)


def ask_loadgen(
    worker: Worker, scenario: str, taken: Measurement, seconds: float, server: ServerRate | None
) -> LoadGenResult | None:
    """Let a loaded worker run under it; None for a server of which no rate held."""
    if scenario == "server" and (server is None or server.rate is None):
        return None
    told = worker.ask(
        "loadgen",
        scenario=scenario,
        batch=taken.batch,
        expected=taken.latency.p50,
        seconds=seconds,
        rate=server.rate if server else None,
        latency=server.bound if server else None,
    )
    return LoadGenResult(**told)


def _settings(
    scenario: str, batch: int, expected: float, seconds: float, rate: float | None, latency: float | None
) -> Any:
    import mlperf_loadgen as lg

    found = lg.TestSettings()
    found.scenario = getattr(lg.TestScenario, _SCENARIOS[scenario])
    found.mode = lg.TestMode.PerformanceOnly
    found.min_duration_ms, found.max_duration_ms = int(seconds * 1000), int(seconds * 1000 * _LIMIT)
    found.min_query_count = _LEAST[scenario]
    found.single_stream_expected_latency_ns = found.multi_stream_expected_latency_ns = int(_SOONER * expected * 1e9)
    found.multi_stream_samples_per_query = batch
    found.offline_expected_qps = batch / expected / _SOONER
    if rate and latency:
        found.server_target_qps, found.server_target_latency_ns = rate, int(latency * 1e9)
        found.server_target_latency_percentile = 0.99
    return found


def _read(log: str, scenario: str, taken: list[float], batch: int) -> dict[str, Any]:
    from mlopt.measure.percentiles import percentile

    lines = [json.loads(line.removeprefix(_MARK)) for line in log.splitlines() if line.startswith(_MARK)]
    told = {line["key"]: line["value"] for line in lines}
    p50, p90, p99 = (told[f"result_{one}_percentile_latency_ns"] / 1e9 for one in ("50.00", "90.00", "99.00"))
    bound = told.get(_BOUNDS.get(scenario, ""))
    done = told.get("result_samples_per_second") or told.get("result_completed_samples_per_sec")
    per_query = told["result_mean_query_latency_ns" if scenario == "multi-stream" else "result_mean_latency_ns"] / 1e9
    ordered = sorted(taken)
    return {
        "version": told["loadgen_version"].partition(" ")[0],
        "scenario": scenario,
        "valid": told["result_validity"] == "VALID",
        "why_not": " ".join(str(told.get("result_invalid_reason") or told.get("early_stopping_result") or "").split()),
        "queries": told["result_query_count"],
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "bound": bound / 1e9 if bound else None,
        "samples_per_second": done or batch / per_query,
        "scheduled": told.get("result_scheduled_samples_per_sec"),
        "ours": {
            **{f"p{one}": percentile(ordered, one) for one in (50, 90, 99) if scenario.endswith("stream")},
            "samples_per_second": batch * len(taken) / sum(taken),
        },
    }


def _nothing(*_: object) -> None:
    """Feeds are in memory already."""
