"""Results of gates made by hand, for the tests of what is written of them."""

from __future__ import annotations

from mlopt.gate.result import Check, GateResult, NotCompared, Side, Timing, Verdict, verdict_of
from mlopt.measure.alone import Fresh
from mlopt.measurement import Interval


def made(verdict: Verdict = "fail", *, name: str = "net.onnx") -> GateResult:
    """Four checks, of which the latency is as asked, a budget, and something that was not compared."""
    slower = Interval(0.118, 0.09, 0.13, "median of 40 mirrored pairs of rounds")
    checks = (
        Check("file-size", "regression", "pass", "bytes", 4000.0, 4000.0, None, 0.01, "counted"),
        Check("latency-p50", "regression", verdict, "seconds", 0.001, 0.00112, slower, 0.025, slower.method, "a note"),
        Check("cpu-time", "regression", "inconclusive", "seconds", 0.001, 0.001, None, 0.025, "m", "too few rounds"),
        Check("top1", "regression", "pass", "share", 0.81, 0.81, Interval(0.0, -0.001, 0.001, "m"), 0.005, "m"),
        Check("min-cosine", "budget", "pass", "share", None, 0.9999, None, 0.99, "measured"),
    )
    side = Side(name, "d" * 64, "onnxruntime", 4000, {"Conv": 2})
    timing = Timing("A CPU, 2 cores", "single-stream", 1, 1, 8, 40, 2, 12.5, Interval(0.001, -0.01, 0.012, "m"), 0.012)
    measured = {"latency-p50": 0.00112, "throughput": 812.5, "peak-memory": 6e7, "file-size": 4000.0, "top1": 0.81}
    return GateResult(
        schema=1,
        kind="mlopt-gate",
        mlopt="0.1.0",
        verdict=verdict_of(checks),
        candidate=side,
        baseline=side,
        profile="ci-gate",
        machine={"cpu": "A CPU"},
        checks=checks,
        measured=measured,
        starts=Fresh([0.01] * 6, [60_000_000] * 6).starts,
        timing=timing,
        slower=(),
        not_compared=(NotCompared("latency-p95", "no margin <here> & there"),),
        samples="e" * 64,
        answers=None,
        seconds=14.0,
    )
