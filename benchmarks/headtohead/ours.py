"""mlopt's rows: what `mlopt compile` ships with its default recipes, each int8 candidate of that walk, what it ships of
`int8-mixed` for the budget that NNCF's accuracy control gets, and what it ships when it is given no samples."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from watched import watch

from headtohead.cases import Case
from headtohead.judging import SHIPS
from headtohead.tools import MAX_DROP, Kept, failure_of, keep, kept, say

_NOISE: Final = Path(__file__).with_name("noise.toml")
BUDGET: Final = "mlopt.budget"
NO_SAMPLES: Final = "mlopt.no-samples"


def mlopt_variants(case: Case, home: Path) -> list[Kept]:
    ready = json.loads((home / "ready.json").read_text())
    given = ["--samples", str(home / "samples.npz"), "--calibration", str(ready["calibration"])]
    _walk(home, SHIPS, given if case.trained else [*given, "--profile", str(_NOISE)], candidates=True)
    if case.trained:
        budget = ["--recipe", "int8-mixed", "--max-drop", f"{MAX_DROP:.0%}"]
        _walk(home, BUDGET, [*given, *budget], candidates=False)
    _walk(home, NO_SAMPLES, [], candidates=False)
    found = [one for one in map(kept, sorted(home.glob("mlopt.*"))) if one]
    for one in found:
        say(one)
    return found


def _walk(home: Path, name: str, options: list[str], *, candidates: bool) -> None:
    """From an empty store, which is gone afterwards; a walk is kept once all that it gave is."""
    folder = home / name
    if kept(folder):
        return
    shutil.rmtree(folder, ignore_errors=True)
    flags = ["--no-image", "--no-inside", "-q", "--json"]  # no peer packs what it makes, or explains it
    flags += ["--cache-dir", str(folder / "store"), "--out", str(folder / "out")]
    ended = watch([sys.executable, "-m", "mlopt", "compile", str(home / "model.onnx"), *options, *flags])
    facts: dict[str, Any] = {"tool": "mlopt", "variant": name.partition(".")[2]}
    facts |= {"seconds": ended.seconds, "peak_memory": ended.peak_memory, "load": ended.load}
    if not ended.stdout.strip():
        keep(folder, facts | {"failure": failure_of(ended) or "it printed no report"})
        return
    report = json.loads(ended.stdout)
    by_name = {one["name"]: one for one in report["candidates"]}
    if candidates:
        for candidate in by_name.values():
            _candidate(candidate, folder / "store", home / f"mlopt.{candidate['name']}")
    winner = by_name[report["winner"]]
    facts |= _facts_of(winner, folder / "store", folder)
    facts |= {
        "chosen": report["winner"],
        "evaluations": _evaluations(by_name.get("int8-mixed")) if name == BUDGET else None,
        "why": report["why"],
        "measuring": sum(step["seconds"] for step in report["steps"] if step["step"] == "measure"),
        "tried": [
            f"{one['name']}: {one['failure'].replace(f'{home}/', '') or one['why_not'] or 'ships'}"
            for one in by_name.values()
        ],
        "versions": dict(report["tools"]),
    }
    shutil.rmtree(folder / "store", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    keep(folder, facts)


def _evaluations(mixed: Mapping[str, Any] | None) -> float | None:
    """How often the search ran the model or a variant on all calibration samples; where all int8 does, that was twice.
    None where it failed before it searched."""
    if mixed is None:
        return None
    said = re.search(r"\(([\d.]+) evaluations", " ".join([*mixed["notes"], mixed["failure"]]))
    if mixed["failure"] and not said:
        return None
    return float(said[1]) if said else 2


def _candidate(candidate: Mapping[str, Any], store: Path, folder: Path) -> None:
    if candidate["precision"] != "int8" and candidate["runtime"] == "onnxruntime":
        return
    facts = {"tool": "mlopt", "variant": candidate["name"], "seconds": None, "peak_memory": None}
    if candidate["failure"]:
        keep(folder, facts | {"failure": candidate["failure"]})
    else:
        keep(folder, facts | _facts_of(candidate, store, folder))


def _facts_of(candidate: Mapping[str, Any], store: Path, folder: Path) -> dict[str, Any]:
    """Copies the model out of the store."""
    results = (path for path in store.glob("results/*/result.json"))
    data = next(
        path.parent / "data" for path in results if json.loads(path.read_text())["digest"] == candidate["digest"]
    )
    shutil.copytree(data, folder / "model", dirs_exist_ok=True)
    return {
        "failure": "",
        "runtime": candidate["runtime"],
        "file": "model/model.onnx",
        "bytes": candidate["file_size"],
        "precision": candidate["precision"],
        "notes": list(candidate["notes"]),
    }
