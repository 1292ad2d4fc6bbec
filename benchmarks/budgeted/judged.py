"""Who judges mlopt's answers: samples that took part in nothing, the file's own size, clocks that run once more."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from budgeted.asked import Answer, Judgement
from mlopt import registry
from mlopt.measure.interleave import Subject, measure_together
from mlopt.plan import BASELINE
from mlopt.profile import Method

if TYPE_CHECKING:
    from mlopt.choose import Judged
    from mlopt.measurement import Measurement

_METHOD: Final = Method(rounds=12, seconds=6.0, warm_up=5)
_BATCH: Final = 16
# The same model in two processes was seen to differ by so much.
_MEMORY_ROOM: Final = 1.05


def held_out_drop(found: Judgement, name: str, home: Path) -> dict[str, Any]:
    """Top-1 lost on the held-out samples: counts, the difference, and its 95 % interval by Wald's formula for pairs."""
    with np.load(home / "held-out.npz") as arrays:
        labels = arrays["y"]
    right, other = (_answers(found, one, home) == labels for one in (BASELINE, name))
    lost, won, total = int((right & ~other).sum()), int((~right & other).sum()), len(labels)
    value = (lost - won) / total
    half = 1.96 * math.sqrt(max(lost + won - (lost - won) ** 2 / total, 0)) / total
    return {"samples": total, "lost": lost, "won": won, "drop": value, "low": value - half, "high": value + half}


def _answers(found: Judgement, name: str, home: Path) -> np.ndarray:
    """The class that a candidate gives each held-out sample; kept, for the same model is asked for often."""
    artifact, runtime = found.artifacts[name], found.prepared.runtimes[name]
    kept = home / "answers" / f"{artifact.digest[:16]}-{runtime}.npy"
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        with np.load(home / "held-out.npz") as arrays:
            (key,) = (key for key in arrays.files if key != "y")
            images = arrays[key]
        runner = registry.load("mlopt.runners", runtime)
        with runner(artifact.main, threads=1) as running:
            parts = [
                running.infer({key: images[start : start + _BATCH]})[0].argmax(axis=1)
                for start in range(0, len(images), _BATCH)
            ]
        np.save(kept, np.concatenate(parts))
    answers: np.ndarray = np.load(kept)
    return answers


def timed_again(found: Judgement, names: Iterable[str]) -> dict[str, Measurement]:
    """The winners beside the original, once more, after all was answered."""
    prepared = found.prepared
    subjects = {name: Subject(name, found.artifacts[name], prepared.runtimes[name]) for name in {BASELINE, *names}}
    measured, failures = measure_together(
        subjects.pop(BASELINE),
        [subjects[name] for name in sorted(subjects)],
        single=[dict(feed) for feed in islice(prepared.evaluation.feeds(batch=1), 8)],
        offline=next(iter(prepared.evaluation.feeds(batch=_METHOD.offline_batch))),
        method=_METHOD,
        device=prepared.device,
    )
    if failures:
        raise RuntimeError(str(failures))
    return measured


def keeps(one: Judged, limits: Mapping[str, float]) -> bool:
    """Whether a candidate's own numbers keep every limit, without mlopt's verdicts."""
    assert one.measurement
    assert one.accuracy
    assert one.accuracy.drop
    has = {
        "max_drop": one.accuracy.drop.high,
        "max_latency": one.measurement.latency.p50_high,
        "max_memory": one.measurement.peak_memory,
        "max_size": one.file_size,
    }
    return all(has[name] <= limit for name, limit in limits.items())


def judged_shipping(
    found: Judgement, given: Answer, limits: Mapping[str, float], again: Mapping[str, Measurement], home: Path,
    *, was: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """What ships, against every budget. `was` is the latency of the original, and the model's, in the run that decided.

    A `violation` is significant (drop, latency: all of the 95 % interval is outside) or exact (size; memory with 5 % of
    room); `excess` are budgets that the point estimate is outside of.
    """
    name = given.winner
    held = held_out_drop(found, name, home)
    size = found.artifacts[name].main.stat().st_size + sum(
        path.stat().st_size for path in found.artifacts[name].path.glob("*.data")
    )
    taken = again[name]
    # The machine may be quicker or slower than it was: what the model takes is its part of what the original took then.
    latency = {
        end: was[BASELINE] / getattr(taken.speedup, of)
        for end, of in (("value", "value"), ("low", "high"), ("high", "low"))
    }
    has = {
        "max_drop": (held["drop"], held["low"]),
        "max_latency": (latency["value"], latency["low"]),
        "max_memory": (taken.peak_memory, taken.peak_memory / _MEMORY_ROOM),
        "max_size": (size, size),
    }
    return {
        "held_out": held,
        "file_size": size,
        "latency_then": was[name],
        "latency_again": latency,
        "memory_again": taken.peak_memory,
        "violations": [budget for budget, limit in limits.items() if has[budget][1] > limit],
        "excess": [budget for budget, limit in limits.items() if has[budget][0] > limit],
    }


def judged_refusal(
    found: Judgement, given: Answer, limits: Mapping[str, float], candidates: Sequence[Judged], after: Answer | None
) -> dict[str, Any]:
    """Whether a budget that was called infeasible is; `after` is the answer to the nearest that is called feasible."""
    wrong = [one.name for one in candidates if keeps(one, limits)]
    violations = ["feasible after all"] if wrong else []
    if after is None or after.kind != "ships":
        violations.append("the nearest is infeasible too")
    return {
        "keepers": wrong,
        "nearest_answer": after.kind if after else "none named",
        "violations": violations,
        "excess": [],
    }
