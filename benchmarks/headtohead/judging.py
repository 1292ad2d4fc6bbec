"""What the variants of a case are worth: answers compared sample by sample with mlopt's own statistics, and all of them
timed side by side with the original."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np

from headtohead.cases import split_of
from headtohead.goals import enough
from headtohead.tools import Kept, keep
from mlopt import registry
from mlopt.artifact import ONNX, OUTCOMES, Artifact, Digest
from mlopt.check.accuracy import answers, compare
from mlopt.errors import MloptError
from mlopt.intervals import paired_difference
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measurement import Measurement
from mlopt.precision.expected import Exact
from mlopt.profile import Method
from mlopt.report.report import to_json
from mlopt.steps.evaluate import Evaluate

BASELINE: Final = "original"
AGAIN: Final = "original, again"
SHIPS: Final = "mlopt.ships"
_IN_OPENVINO: Final = (SHIPS, "nncf_onnx.default", "nncf_onnx.accurate-bias", "ort.min-max")
_RIVALS: Final = 4
_SETS: Final = 3
_METHOD: Final = Method(rounds=15, seconds=45.0, warm_up=3, offline_batch=4)


def judge_answers(found: Sequence[Kept], home: Path) -> list[Kept]:
    """Each variant with `accuracy` among its facts; one that its runtime cannot run gets a failure."""
    samples = split_of(home).evaluation
    baseline = _outcomes(samples, home / "model.onnx", "onnxruntime", home / "outcomes")
    judged = []
    for one in found:
        if one.made and "accuracy" not in one.facts:
            one = _judged(one, samples, baseline)
        judged.append(one)
    return judged


def _judged(one: Kept, samples: Any, baseline: Artifact) -> Kept:
    runtime = one.facts["runtime"]
    try:
        outcomes = _outcomes(samples, one.file, runtime, one.folder / "outcomes")
    except MloptError as error:
        return keep(one.folder, one.facts | {"failure": f"{runtime} does not run it: {error.what}"})
    accuracy = compare(
        baseline, outcomes, labels=samples.labels, generated=False, device="this machine", grade="measured"
    )
    return keep(
        one.folder, one.facts | {"accuracy": to_json(accuracy), "expected": _expected(baseline, outcomes, samples)}
    )


def _expected(baseline: Artifact, outcomes: Artifact, samples: Any) -> dict[str, float] | None:
    exact, found = (np.load(one.path / "0.npy") for one in (baseline, outcomes))
    known = Exact.of(exact, samples.labels, most=len(exact)) if samples.labels is not None else None
    return expected_drop(known, found) if known else None


def expected_drop(exact: Exact, found: np.ndarray) -> dict[str, float]:
    """Top-1 that these answers to the same samples lose, with its standard error. Where an answer changed, the chances
    that the original gives the two classes are counted, and not which of them happens to be right: that is hardly ever
    either, and of few samples mostly luck."""
    assert exact.belief is not None
    now = found.argmax(axis=1)
    lost = exact.belief[:, 0] - exact.belief[exact.order == now[:, None]]
    return {"value": float(lost.mean()), "error": float(lost.std() / np.sqrt(max(1, len(lost) - 1)))}


def _outcomes(samples: Any, model: Path, runtime: str, into: Path) -> Artifact:
    if not (into / "outcomes.json").is_file():
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir()
        step = Evaluate(samples, runtime, "this machine", threads=len(os.sched_getaffinity(0)))
        step.run(_artifact(model), into)
    return Artifact(OUTCOMES, Digest(""), into)


def against(one: Kept, other: Kept, home: Path) -> dict[str, float] | None:
    """Top-1 that `one` loses to `other` on the same samples, paired, with its 95 % interval; None without labels."""
    labels = split_of(home).evaluation.labels
    first, second = (answers(Artifact(OUTCOMES, Digest(""), each.folder / "outcomes")) for each in (other, one))
    if labels is None or first is None or second is None:
        return None
    hit, hit_other = first == labels, second == labels
    return asdict(paired_difference(int((hit & ~hit_other).sum()), int((~hit & hit_other).sum()), len(labels)))


def judge_speed(found: Sequence[Kept], home: Path) -> dict[str, Any]:
    """All variants that ran, and every file in OpenVINO too where mlopt has that runner; kept as home/latency.json."""
    original = _artifact(home / "model.onnx")
    subjects = [Subject(AGAIN, original, "onnxruntime")]
    for one in found:
        if one.made and one.facts.get("accuracy"):
            subjects.append(Subject(one.name, _artifact(one.file), one.facts["runtime"]))
    subjects += _in_openvino(found, original)
    feeds = list(islice(split_of(home).evaluation.feeds(batch=1), 4))
    offline = next(split_of(home).evaluation.feeds(batch=_METHOD.offline_batch))
    before = os.getloadavg()[0]
    measured, failures = measure_together(
        Subject(BASELINE, original, "onnxruntime"), subjects, single=feeds, offline=offline, method=_METHOD,
        device="this machine",
    )  # fmt: skip
    speeds = {name: one.speedup.value for name, one in measured.items()}
    facts = {
        "rounds": _METHOD.rounds,
        "threads": _METHOD.threads,
        "load": [before, os.getloadavg()[0]],
        "measured": {name: _figures(one) for name, one in measured.items()},
        "failures": {name: error.what for name, error in failures.items()},
        "beside_ships": beside_ships(_rivals(found, subjects), speeds, home),
    }
    (home / "latency.json").write_text(json.dumps(facts, indent=1))
    for name, one in measured.items():
        print(f"  {name}: {one.speedup.value:.2f}× [{one.speedup.low:.2f}, {one.speedup.high:.2f}]", file=sys.stderr)
    return facts


def beside_ships(subjects: Sequence[Subject], speeds: Mapping[str, float], home: Path) -> dict[str, Any]:
    """The fastest `subjects` by their `speeds`, timed beside what ships and nothing else: times its speed.

    Of thirty processes that take turns, two are seconds apart in a round, in which the machine becomes another. And
    where a process lies in memory makes a twentieth: of three sets of processes each peer's middle one is told.
    """
    ours = next((one for one in subjects if one.name == SHIPS), None)
    peers = [one for one in subjects if one is not ours and one.name in speeds]
    if ours is None or not peers:
        return {}
    rivals = sorted(peers, key=lambda one: -speeds[one.name])[:_RIVALS]
    feeds = list(islice(split_of(home).evaluation.feeds(batch=1), 4))
    offline = next(split_of(home).evaluation.feeds(batch=_METHOD.offline_batch))
    method = replace(_METHOD, seconds=20.0)
    given = {"single": feeds, "offline": offline, "method": method, "device": "this machine"}
    sets = [measure_together(ours, rivals, **given)[0] for _ in range(_SETS)]
    middle = {}
    for name in (one.name for one in rivals if all(one.name in found for found in sets)):
        speedups = sorted((found[name].speedup for found in sets), key=lambda speedup: speedup.value)
        middle[name] = speedups[len(sets) // 2]
        print(f"  {name}: {middle[name].value:.2f}× the speed of what ships", file=sys.stderr)
    return {name: asdict(speedup) for name, speedup in middle.items()}


def _rivals(found: Sequence[Kept], subjects: Sequence[Subject]) -> list[Subject]:
    """What ships, and the files of peers that keep accuracy, in whichever runtime, with the original in OpenVINO."""
    near = {one.name for one in found if one.made and one.facts.get("accuracy") and enough(one.facts["accuracy"])}
    peers = {name for name in near if not name.startswith("mlopt.")} | {"original"}
    return [one for one in subjects if one.name == SHIPS or one.name.removeprefix("openvino: ") in peers]


def untimed(found: Sequence[Kept], home: Path) -> bool:
    """Whether something was made since the variants were last timed together."""
    path = home / "latency.json"
    return not path.is_file() or any(
        (one.folder / "result.json").stat().st_mtime > path.stat().st_mtime for one in found if one.made
    )


def openvino_missing() -> str:
    """Why OpenVINO is not among the runtimes; empty when it is."""
    if "openvino" not in registry.names("mlopt.runners"):
        return "mlopt has no runner of that name"
    try:
        __import__("openvino")
    except ImportError:
        return "it is not installed beside mlopt: pip install 'mlopt[openvino]'"
    return ""


def _in_openvino(found: Sequence[Kept], original: Artifact) -> list[Subject]:
    if openvino_missing():
        return []
    files = {one.name: one.file for one in found if one.made and one.facts["runtime"] == "onnxruntime"}
    return [Subject("openvino: original", original, "openvino")] + [
        Subject(f"openvino: {name}", _artifact(files[name]), "openvino") for name in _IN_OPENVINO if name in files
    ]


def _artifact(file: Path) -> Artifact:
    return Artifact(ONNX, Digest(""), file)


def _figures(one: Measurement) -> dict[str, Any]:
    return {
        "speedup": asdict(one.speedup),
        "p50": one.latency.p50,
        "queries": one.latency.queries,
        "peak_memory": one.peak_memory,
        "load_time": one.load_time,
    }
