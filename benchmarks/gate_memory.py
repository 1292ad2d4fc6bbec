"""Bounds of memory and load time on real processes: false alarms and power of the gate's rule, and what bounds cover.

    python benchmarks/gate_memory.py --model MODEL… [--processes 60] [--trials 2000]

Starts so many fresh processes of each model, as `mlopt gate` starts them, and resamples gates and budgets from what
they took. A regression multiplies the candidate's peaks. Writes reports/published/gate-memory.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from gate import MARGINS, OUT, memory_gate
from watched import cpu

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.intervals import FEWEST, of_median
from mlopt.measure.alone import Fresh, Given, arena_peak
from mlopt.measure.interleave import Subject
from mlopt.profile import Method
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature_of

LARGER: Final = (0.0, 0.01, 0.05, 0.10)
LUCK: Final = (0.1, 0.025)
"""One process in ten takes so much more: worse than anything that was recorded."""


def main() -> None:
    options = _options()
    models = [recorded(model, options.processes) for model in options.model]
    found: dict[str, Any] = {
        "machine": cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "onnxruntime": metadata.version("onnxruntime"),
        "load_average": round(os.getloadavg()[0], 1),
        "trials": options.trials,
        "processes": options.processes,
        "models": models,
        "gates": [row for model in models for row in gates(model, options.trials)],
        "budgets": [row for model in models for row in budgets(model, options.trials)],
    }
    (OUT / "gate-memory.json").write_text(json.dumps(found, indent=1) + "\n")
    (OUT / "gate-memory.md").write_text(to_markdown(found))


def recorded(model: Path, count: int) -> dict[str, Any]:
    signature = signature_of(model)
    subject = Subject(model.name, Artifact(ONNX, digest_of(model), model), "onnxruntime")
    single = list(GeneratedSamples(signature, 4, 0).feeds(batch=1))
    given = Given(single, next(GeneratedSamples(signature, 8, 0).feeds(batch=8)), Method())
    fresh = Fresh()
    began = time.monotonic()
    with given.written() as folders:
        for _ in range(count):
            fresh.add(subject, folders, given)
    each = (time.monotonic() - began) / count
    arenas = sorted({arena_peak(subject, given) for _ in range(3)}, key=str)
    print(f"{model.name}: {each:.2f} s a process, arena {arenas}", flush=True)
    peaks, loads = fresh.peaks, fresh.load_times
    return {"name": model.name, "seconds_each": each, "peaks": peaks, "load_times": loads, "arena_peaks": arenas}


def gates(model: dict[str, Any], trials: int) -> Iterator[dict[str, Any]]:
    assert MARGINS.peak_memory is not None
    draw = random.Random(model["name"])
    share, more = LUCK
    unlucky = [round(peak * (1 + more)) if draw.random() < share else peak for peak in model["peaks"] * 20]
    for name, seen in (("as recorded", model["peaks"]), (f"{share:.0%} of processes at +{more:.1%}", unlucky)):
        for larger in LARGER:
            tried = [memory_gate(seen, larger, float(MARGINS.peak_memory), draw) for _ in range(trials)]
            verdicts = [verdict for verdict, _ in tried]
            yield {
                "model": model["name"],
                "processes": name,
                "larger": larger,
                **{one: verdicts.count(one) / trials for one in ("fail", "pass", "inconclusive")},  # type: ignore[arg-type]
                "taken": statistics.fmean(count for _, count in tried),
            }


def budgets(model: dict[str, Any], trials: int) -> Iterator[dict[str, Any]]:
    """A limit at the very median of what was recorded: how often one process keeps it, and a bound."""
    draw = random.Random(model["name"])
    for what in ("load_times", "peaks"):
        seen: Sequence[float] = model[what]
        middle = statistics.median_low(seen)
        drawn = [draw.choices(seen, k=FEWEST) for _ in range(trials)]
        yield {
            "model": model["name"],
            "what": "load time" if what == "load_times" else "peak memory",
            "median": middle,
            "spread": max(seen) / min(seen) - 1,
            "kept_by_one": sum(one[0] < middle for one in drawn) / trials,
            "kept_by_bound": sum(of_median(one).high < middle for one in drawn) / trials,
            "room": statistics.fmean(of_median(one).high for one in drawn) / middle - 1,
        }


def to_markdown(found: dict[str, Any]) -> str:
    names = " ".join(one["name"] for one in found["models"])
    lines = ["# Bounds of memory and load time", ""]
    lines += [f"`python benchmarks/gate_memory.py --model {names} --processes {found['processes']}`", ""]
    lines += [
        _SAYS.format(**found),
        "",
        "| model | a process takes | arena at its peak, three times |",
        "|---|---|---|",
    ]
    for one in found["models"]:
        arenas = ", ".join(str(arena) for arena in one["arena_peaks"])
        lines.append(f"| {one['name']} | {one['seconds_each']:.2f} s | {arenas} bytes |")
    lines += ["", "| model | processes | the candidate takes | fails | passes | inconclusive | processes of each |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for row in found["gates"]:
        cells = [f"{row[name]:.2%}" for name in ("fail", "pass", "inconclusive")]
        start = f"| {row['model']} | {row['processes']} | +{row['larger']:.0%} "
        lines.append(f"{start}| {' | '.join(cells)} | {row['taken']:.1f} |")
    lines += ["", "A limit at the median itself, which a bound should keep in at most 2.5 % of cases:", ""]
    lines += ["| model | of | spread | kept by one process | kept by the bound of six | the bound is above by |"]
    lines += ["|---|---|---|---|---|---|"]
    for row in found["budgets"]:
        cells = [f"{row[name]:.1%}" for name in ("spread", "kept_by_one", "kept_by_bound", "room")]
        lines.append(f"| {row['model']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_SAYS = (
    "Real: load time and peak memory of {processes} fresh processes of each model on {machine}, {cores} core(s), "
    "onnxruntime {onnxruntime}, load average {load_average} of other jobs. Resampled: {trials} gates and budgets for "
    "each row, with the rule and the margin (3 %) of `ci-gate`; a regression multiplies the candidate's peaks."
)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True)
    parser.add_argument("--processes", type=int, default=60)
    parser.add_argument("--trials", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
