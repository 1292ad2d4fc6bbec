"""From what a verb found, fresh or read from its JSON, to entries of a history."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlopt.history.entry import Entry, Number

# What CI systems call the commit where the checkout itself cannot be asked.
_COMMITS: Final = ("GITHUB_SHA", "CI_COMMIT_SHA", "GIT_COMMIT")
_GIT_SECONDS: Final = 10


@dataclass(frozen=True, slots=True)
class Origin:
    """When and at which commit something was measured."""

    time: str
    revision: str
    dirty: bool


def origin(folder: Path | None = None) -> Origin:
    """Now, at the commit of the work tree that `folder` (the current one) lies in, or the commit that CI names."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    here = folder or Path.cwd()
    if revision := _git(here, "rev-parse", "--verify", "HEAD"):
        return Origin(now, revision, bool(_git(here, "status", "--porcelain", "--untracked-files=no")))
    return Origin(now, next(filter(None, map(os.environ.get, _COMMITS)), ""), False)


def entries_of(found: Mapping[str, Any], at: Origin) -> list[Entry]:
    """The entries in the JSON of `bench`, `gate` or a bundle's report.

    Raises `KeyError` or `TypeError` for what is none of them.
    """
    kind = found.get("kind")
    if kind == "mlopt-bench":
        return list(_of_bench(found, at))
    return [_of_gate(found, at)] if kind == "mlopt-gate" else list(_of_report(found, at))


def _of_bench(found: Mapping[str, Any], at: Origin) -> Iterator[Entry]:
    models = found["models"]
    for number, one in enumerate(models):
        taken, first = one["measurement"], models[0]["measurement"]
        beside = number > 0 and all(taken[name] == first[name] for name in ("threads", "batch"))
        yield Entry(
            time=at.time,
            verb="bench",
            model=one["model"],
            variant="",
            digest=one["digest"],
            baseline=models[0]["digest"] if beside else "",
            versions=_sorted({"mlopt": found["mlopt"], **one["versions"]}),
            samples="",
            revision=at.revision,
            dirty=at.dirty,
            numbers={**_clocks(taken, beside=beside), **_of_starts(one)},
            **_where(taken),
        )


def _of_starts(one: Mapping[str, Any]) -> dict[str, Number]:
    """What bench alone measures; a server's rate lies between one that held and one that did not."""
    found = {"file-size": Number(float(one["file_size"])), "cold-start": Number(one["cold_start"])}
    if (server := one["server"]) and server["rate"] is not None:
        found["server-rate"] = Number(server["rate"])
    return found


def _of_gate(found: Mapping[str, Any], at: Origin) -> Entry:
    timing = found["timing"] or {}
    machine, side = dict(found["machine"]), found["candidate"]
    numbers = {metric: Number(float(value)) for metric, value in found["measured"].items() if value is not None}
    change = next((one["change"] for one in found["checks"] if one["metric"] == "latency-p50" and one["change"]), None)
    if change:
        low, high = (None if change[end] is None else 1 + change[end] for end in ("low", "high"))
        numbers["relative-latency"] = Number(1 + change["value"], low, high)
    return Entry(
        time=at.time,
        verb="gate",
        model=side["name"],
        variant="",
        digest=side["digest"],
        baseline=found["baseline"]["digest"] if change else "",
        runtime=side["runtime"],
        scenario=timing.get("scenario", ""),
        threads=timing.get("threads", 0),
        batch=timing.get("batch", 0),
        device=timing.get("device") or f"{machine.pop('cpu', '')}, {machine.pop('cores', '')} cores",
        versions=_sorted({"mlopt": found["mlopt"], **_without(machine, "cpu", "cores")}),
        samples=found["samples"],
        revision=at.revision,
        dirty=at.dirty,
        numbers=numbers,
    )


def _of_report(found: Mapping[str, Any], at: Origin) -> Iterator[Entry]:
    candidates = [one for one in found["candidates"] if not one["failure"]]
    first = next((one["digest"] for one in candidates if one["name"] == found["baseline"]), "")
    for one in candidates:
        taken, beside = one["measurement"], one["name"] != found["baseline"]
        clocks = _clocks(taken, beside=beside) if taken else {}
        where = _where(taken) if taken else {"scenario": "", "threads": 0, "batch": 0, "device": ""}
        yield Entry(
            time=at.time,
            verb="compile",
            model=found["model"]["name"],
            variant=one["name"],
            digest=one["digest"],
            baseline=first if beside and taken else "",
            versions=_sorted({"mlopt": found["mlopt"], **found["tools"]}),
            samples=_samples(found["samples"]) if one["accuracy"] else "",
            revision=at.revision,
            dirty=at.dirty,
            numbers={**clocks, **_answers(one["accuracy"]), "file-size": Number(float(one["file_size"]))},
            **{"runtime": one["runtime"], **where},
        )


def _clocks(taken: Mapping[str, Any], *, beside: bool) -> dict[str, Number]:
    latency, speedup = taken["latency"], taken["speedup"]
    numbers = {f"latency-{name}": Number(latency[name]) for name in ("p50", "p90", "p99")}
    for name in ("throughput", "load_time", "first_inference", "peak_memory"):
        numbers[name.replace("_", "-")] = Number(float(taken[name]))
    if beside:
        numbers["relative-latency"] = Number(1 / speedup["value"], 1 / speedup["high"], 1 / speedup["low"])
    return numbers


def _answers(accuracy: Mapping[str, Any] | None) -> dict[str, Number]:
    """Not of generated inputs: how a model answers those is no fact about its accuracy."""
    if accuracy is None or accuracy["generated"]:
        return {}
    found = {"top1": Number(accuracy["top1"])} if accuracy["top1"] is not None else {}
    for name in ("drop", "agreement"):
        if one := accuracy[name]:
            found[name] = Number(one["value"], one["low"], one["high"])
    return found


def _samples(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return ""
    return f"{facts['source']}: {facts['evaluation']} of {facts['total']}, seed {facts['seed']}"


def _where(taken: Mapping[str, Any]) -> dict[str, Any]:
    return {name: taken[name] for name in ("runtime", "scenario", "threads", "batch", "device")}


def _sorted(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: str(versions[name]) for name in sorted(versions)}


def _without(values: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if name not in names}


def _git(folder: Path, *command: str) -> str:
    """What git prints, empty where there is no git or no work tree."""
    try:
        asked = ["git", "-C", str(folder), *command]
        return subprocess.run(asked, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
