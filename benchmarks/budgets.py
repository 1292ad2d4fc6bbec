"""Are budgets kept? Random requests for models with real weights, answered by mlopt, judged by samples it never saw.

    make budgets          (or: python benchmarks/budgets.py [--requests 200] [--models A,B] [--seconds 500])

A request names a drop of top-1 and some of latency, memory and file size, each about what one of the candidates
reaches. Requests of a group share a model, a drop, the candidates that are made for it and one run of clocks; the
first of a model's requests goes through the command `mlopt compile`, the others through the functions that it calls.
Then: answers on held-out samples, the file's size, clocks once more beside the original, all candidates against what
was called infeasible. What is done is kept under out/budgets/, so that a run may be stopped (`--seconds` does) and
taken up again. Writes reports/published/budgets.json, and the .md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from budgeted.asked import CALIBRATION, RECIPES, Judgement, answer, command, drawn, drawn_drop, judgement
from budgeted.judged import judged_refusal, judged_shipping, timed_again
from budgeted.rendered import render
from headtohead.cases import CASES, prepare
from watched import machine

from mlopt.plan import BASELINE

ROOT: Final = Path(__file__).resolve().parents[1]
PUBLISHED: Final = ROOT / "reports" / "published" / "budgets.json"
# How many groups of each: drops, and runs of clocks. On pictures of ImageNet's size one takes minutes.
MODELS: Final = {
    "resnet8": 3,
    "resnet20": 3,
    "resnet32": 3,
    "mobilenetv1_x0_25": 1,
    "mobilenetv1_keras": 1,
    "squeezenet1_0": 1,
}
_FIRST: Final = 0.34  # of the requests are those of the models' first groups
SEED: Final = 20
_GIVEN: Final = 0.6  # of the samples; the others are held out


@dataclass(frozen=True, slots=True)
class Group:
    """Requests that share a model and a drop."""

    model: str
    number: int
    requests: int

    @property
    def name(self) -> str:
        return f"{self.model}-{self.number}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=200)
    options.add_argument("--models", default=",".join(MODELS), help="of %(default)s")
    options.add_argument("--seconds", type=float, default=float("inf"), help="begin no group after so long")
    options.add_argument("--only", choices=("render",), help="the table alone")
    options.add_argument("--out", type=Path, default=ROOT / "out" / "budgets")
    said = options.parse_args()
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    began = time.monotonic()
    groups = list(planned(said.models.split(","), said.requests))
    for group in groups if said.only != "render" else ():
        kept = said.out / f"{group.name}.json"
        if kept.is_file():
            continue
        if time.monotonic() - began > said.seconds:
            break
        done = run(group, said.out)
        if isinstance(done, str):
            print(f"skipped: {group.name}: {done}", file=sys.stderr)
            continue
        kept.with_suffix(".part").write_text(json.dumps(done))
        kept.with_suffix(".part").replace(kept)
        print(f"{group.name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    publish(groups, said.out)


def planned(models: list[str], requests: int) -> Iterator[Group]:
    """Every model's first group before any model's second; the requests of both kinds shared out evenly."""
    first = [(model, 0) for model in models]
    later = [(model, number) for number in range(1, max(MODELS.values())) for model in models if number < MODELS[model]]
    share = round(requests * _FIRST) if later else requests
    for groups, some in ((first, share), (later, requests - share)):
        for place, (model, number) in enumerate(groups):
            yield Group(model, number, some // len(groups) + (place < some % len(groups)))


def run(group: Group, out: Path) -> list[dict[str, Any]] | str:
    """Every request of the group with its answer and what became of it; or why there is none."""
    home, store = out / group.model, out / "store"
    if why := prepare(CASES[group.model], home):
        return why
    samples = split(home)
    chance = random.Random(f"{SEED}/{group.name}")
    drop = drawn_drop(chance, samples - CALIBRATION)
    found = judgement(home, store, drop)
    asked: list[dict[str, Any]] = []
    for number in range(group.requests):
        limits = drawn(chance, found, drop)
        whole = number == group.number == 0
        given, report = command(found, limits, store) if whole else (answer(found, limits), None)
        was = _latencies(found, report)
        asked.append(
            {"limits": limits, "given": given, "was": was, "by": "mlopt compile" if whole else "its functions"}
        )
    again = timed_again(found, {one["given"].winner for one in asked if one["given"].kind != "infeasible"})
    return [{"model": group.model, "group": group.number} | _judged(found, one, again, home) for one in asked]


def split(home: Path) -> int:
    """Write what mlopt is given and what is held out, once, at random; how many it is given."""
    import numpy as np

    with np.load(home / "samples.npz") as arrays:
        total = len(arrays["y"])
        given = int(total * _GIVEN)
        if not (home / "held-out.npz").is_file():
            order = np.random.default_rng(SEED).permutation(total)
            for name, part in (("given", order[:given]), ("held-out", order[given:])):
                np.savez(home / f"{name}.part.npz", **{key: arrays[key][np.sort(part)] for key in arrays.files})
                (home / f"{name}.part.npz").replace(home / f"{name}.npz")
    return given


def _latencies(found: Judgement, report: dict[str, Any] | None) -> dict[str, float]:
    """Median of every candidate in the run that decided."""
    if report is not None:
        return {one["name"]: one["measurement"]["latency"]["p50"] for one in report["candidates"] if one["measurement"]}
    return {one.name: one.measurement.latency.p50 for one in found.candidates if one.measurement}


def _judged(found: Judgement, one: dict[str, Any], again: Any, home: Path) -> dict[str, Any]:
    given, limits = one["given"], one["limits"]
    facts = {"by": one["by"], "limits": limits} | asdict(given)
    if given.kind != "infeasible":
        return facts | judged_shipping(found, given, limits, again, home, was=one["was"])
    after = answer(found, {**limits, **given.nearest}) if given.nearest else None
    return facts | judged_refusal(found, given, limits, found.candidates, after)


def publish(groups: list[Group], out: Path) -> None:
    """All that is done so far."""
    done = [json.loads(path.read_text()) for one in groups if (path := out / f"{one.name}.json").is_file()]
    facts = {
        "schema": 1,
        "command": "python benchmarks/budgets.py",
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "openvino", "onnx", "numpy")},
        "seed": SEED,
        "recipes": [BASELINE, *RECIPES],
        "requests": [request for group in done for request in group],
    }
    PUBLISHED.write_text(json.dumps(facts, indent=1) + "\n")
    PUBLISHED.with_suffix(".md").write_text(render(facts))


if __name__ == "__main__":
    main()
