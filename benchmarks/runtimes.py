"""Small convolutional nets in every runtime: what int8 and fp32 answer there, and how fast, side by side in one run.

    make bench-runtimes     (or: python benchmarks/runtimes.py [--models resnet8 …])

Writes reports/published/runtimes.json and runtimes.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

from headtohead.cases import CASES, exported, prepare, split_of

from mlopt.artifact import Artifact
from mlopt.check.accuracy import compare
from mlopt.emulate.sets import SETS, way_for
from mlopt.errors import MissingDependency, UnsupportedModel
from mlopt.host import detect
from mlopt.intervals import allowed
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measure.limits import UNLIMITED, Limits
from mlopt.measurement import Measurement
from mlopt.plan import Plan, plan
from mlopt.profile import Method, find_profile
from mlopt.recipe import find_recipe
from mlopt.samples.samples import Samples
from mlopt.signature import signature
from mlopt.steps.evaluate import Evaluate
from mlopt.store import Store, default_root
from mlopt.target import find_target

ROOT = Path(__file__).resolve().parents[1]
INTO = ROOT / "reports" / "published" / "runtimes.json"
MODELS = ("resnet8", "resnet20", "mobilenetv1_x0_25", "squeezenet1_0", "mobilenet_v3_large-shape")
RECIPES = ("openvino-fp32", "litert-fp32", "int8-static", "openvino-int8", "litert-int8")
METHOD = Method(rounds=20, seconds=45.0, warm_up=3, offline_batch=4)
OLDER = ("avx512-vnni", "avx2")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("out"), help="where models and samples are kept")
    options.add_argument("--models", nargs="*", default=MODELS)
    said = options.parse_args()
    facts: dict[str, Any] = json.loads(INTO.read_text()) if INTO.exists() else {"models": {}}
    packages = ("mlopt", "onnxruntime", "openvino", "ai-edge-litert", "numpy")
    facts |= {
        "command": "python benchmarks/runtimes.py",
        "machine": f"{detect().cpu}, {platform.system()} {platform.release()}",
        "versions": {name: metadata.version(name) for name in packages},
        "date": time.strftime("%Y-%m"),
        "method": f"1 thread, batch 1, {METHOD.rounds} rounds, turned; other work may run on the machine",
    }
    for name in said.models:
        home = (said.out / "runtimes" / name).absolute()
        if why := prepare(CASES[name], home):
            print(f"{name}: {why}")
            continue
        facts["models"][name] = judged(home)
        INTO.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
        INTO.with_suffix(".md").write_text(rendered(facts))
        print(name, json.dumps(facts["models"][name]), flush=True)


def judged(home: Path) -> dict[str, Any]:
    """By recipe: how it answers and how fast it is, against fp32 in ONNX Runtime; or why it is not there."""
    model, split, store = exported(home), split_of(home), Store(default_root())
    budget = allowed(find_profile("balanced").budgets, len(split.evaluation), labelled=True)
    recipes = [find_recipe(name) for name in RECIPES]
    made = plan(signature(model), find_target("host"), recipes, split.calibration, split.calibration, budget)
    rows: dict[str, Any] = {one.name: {"left out": one.reason} for one in made.left_out}
    artifacts = built(made, model, store, rows)
    outcomes = {}
    for name, (artifact, runtime) in artifacts.items():
        step = Evaluate(split.evaluation, runtime, "this machine", threads=1)
        outcomes[name] = store.run(step, artifact)
    measured = timed(artifacts, split.evaluation, UNLIMITED)
    older = {name: timed(artifacts, split.evaluation, limits) for name, limits in hidden()}
    for name, one in measured.items():
        accuracy = compare(
            outcomes["baseline"],
            outcomes[name],
            labels=split.evaluation.labels,
            generated=False,
            device="this machine",
            grade="measured",
        )
        rows[name] = {
            "speedup": asdict(one.speedup),
            "older": {each: asdict(found[name].speedup) for each, found in older.items() if name in found},
            "seconds": one.latency.p50,
            "memory": one.peak_memory,
            "load": one.load_time,
            "bytes": artifacts[name][0].bytes,
            "sqnr": accuracy.sqnr if name != "baseline" else None,
            "drop": asdict(accuracy.drop) if accuracy.drop else None,
        }
    return rows


def timed(artifacts: Mapping[str, tuple[Artifact, str]], samples: Samples, limits: Limits) -> dict[str, Measurement]:
    subjects = [Subject(name, artifact, runtime) for name, (artifact, runtime) in artifacts.items()]
    measured, failures = measure_together(
        subjects[0],
        subjects[1:],
        single=list(islice(samples.feeds(batch=1), 16)),
        offline=next(iter(samples.feeds(batch=METHOD.offline_batch))),
        method=METHOD,
        device="this machine",
        limits=limits,
    )
    for name, failure in failures.items():
        print(f"{name}: {failure}")
    return measured


def hidden() -> Iterator[tuple[str, Limits]]:
    """The older instruction sets that processes can be kept to here."""
    for name in OLDER:
        try:
            way = way_for(SETS[name])
        except MissingDependency as error:
            print(f"{name}: {error.what}")
            continue
        if way.hidden:
            yield name, Limits(python=(sys.executable, "-m", "mlopt.emulate.hiding", ",".join(way.hidden)))


def built(made: Plan, model: Artifact, store: Store, rows: dict[str, Any]) -> dict[str, tuple[Artifact, str]]:
    artifacts = {}
    for candidate in made.candidates:
        artifact = model
        try:
            for step in candidate.steps:
                artifact = store.run(step, artifact)
        except UnsupportedModel as error:
            rows[candidate.name] = {"left out": error.what}
        else:
            artifacts[candidate.name] = artifact, candidate.runtime
    return artifacts


def rendered(facts: Mapping[str, Any]) -> str:
    """The table, from the numbers of the JSON file beside it alone."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items()))
    lines = [
        "# One net, three runtimes",
        "",
        f"`{facts['command']}`, {facts['date']}, {facts['machine']}; {facts['method']}. {versions}.",
        "",
        "Speed-ups are against fp32 in ONNX Runtime, paired by round, with 95 % intervals; SQNR and drop of top-1 are",
        "against its answers on samples that no recipe saw. *As avx512-vnni*, *as avx2*: newer instructions are hidden",
        "from the processes, baseline included; the kernels are those of such a processor, the clocks of this one.",
        "*shape*: random weights, so that its SQNR is that of no trained net.",
        "",
        "| model | recipe | speed-up | as avx512-vnni | as avx2 | SQNR | drop | peak memory | load | file |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model, rows in facts["models"].items():
        for name, row in sorted(rows.items(), key=lambda item: ("baseline", *RECIPES).index(item[0])):
            lines.append(f"| {model} | {name} | {_cells(row)} |")
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, Any]) -> str:
    if "left out" in row:
        return f"left out: {row['left out']} | | | | | | |"
    drop = row["drop"]
    return " | ".join(
        (
            *(_times(one) for one in (row["speedup"], *(row["older"].get(name) for name in OLDER))),
            "" if row["sqnr"] is None else f"{row['sqnr']:.1f} dB",
            f"{100 * drop['value']:+.1f} [{100 * drop['low']:+.1f}, {100 * drop['high']:+.1f}]" if drop else "",
            f"{row['memory'] / 1e6:.0f} MB",
            f"{1e3 * row['load']:.0f} ms",
            f"{row['bytes'] / 1e6:.2f} MB",
        )
    )


def _times(speedup: Mapping[str, float] | None) -> str:
    return f"{speedup['value']:.2f}× [{speedup['low']:.2f}, {speedup['high']:.2f}]" if speedup else ""


if __name__ == "__main__":
    main()
