"""Who is compared: each tool's variants for a case, and how one of them is made and kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from watched import Ended, watch

from headtohead.cases import CIFAR, Case
from headtohead.environments import PEERS, environment

MAX_DROP: Final = 0.01
_LIMIT: Final = 3600.0
_TAIL: Final = 400


def _ort(case: Case) -> tuple[str, ...]:
    if case.attention:
        return ("defaults", "min-max", "min-max+products", "percentile+products", "dynamic")
    # With more bins entropy takes a quarter of an hour on pictures of 224 pixels, and lost more wherever it was tried.
    small = case.samples == CIFAR
    return ("defaults", "min-max", "entropy", *(["entropy-2048"] if small else []), "percentile")


def _nncf(case: Case) -> tuple[str, ...]:
    return ("default", "mixed", "accurate-bias", *(["accuracy-control"] if case.trained else []))


@dataclass(frozen=True, slots=True)
class Tool:
    """`name` is the program in peers/ and its requirements file; `shown` is what the table calls it."""

    name: str
    shown: str
    variants: Callable[[Case], tuple[str, ...]]


TOOLS: Final[Mapping[str, Tool]] = {
    tool.name: tool
    for tool in (
        Tool("ort", "ONNX Runtime", _ort),
        Tool("nncf_onnx", "NNCF", _nncf),
        Tool("modelopt_onnx", "modelopt", lambda _: ("entropy", "max")),
        Tool("olive_onnx", "Olive", lambda _: ("static",)),
        Tool("litert", "LiteRT", lambda case: ("fp32", "int8") if case.keras else ()),
        Tool("neural_compressor", "onnx-neural-compressor", lambda _: ("per-tensor", "per-channel")),
    )
}


@dataclass(frozen=True, slots=True)
class Kept:
    """One (case, tool, variant) on disk: `folder/result.json` is there when it is done, failed or not."""

    folder: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def file(self) -> Path:
        return self.folder / self.facts["file"]

    @property
    def made(self) -> bool:
        return not self.facts["failure"]


def keep(folder: Path, facts: Mapping[str, Any]) -> Kept:
    """Write a result whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "result.part"
    scratch.write_text(json.dumps(facts, indent=1))
    os.replace(scratch, folder / "result.json")
    return Kept(folder, dict(facts))


def kept(folder: Path) -> Kept | None:
    path = folder / "result.json"
    return Kept(folder, json.loads(path.read_text())) if path.is_file() else None


def peer_variants(case: Case, tool: Tool, home: Path, environments: Path) -> list[Kept]:
    """Every variant that `tool` makes of the case, made now or kept from before."""
    if not tool.variants(case):
        return []
    python, why = environment(tool.name, environments)
    if python is None:
        print(f"  {tool.shown}: skipped: {why}", file=sys.stderr)
        return []
    found = []
    for variant in tool.variants(case):
        folder = home / f"{tool.name}.{variant}"
        found.append(kept(folder) or _made(case, tool, variant, python, home, folder))
        say(found[-1])
    return found


def _made(case: Case, tool: Tool, variant: str, python: Path, home: Path, folder: Path) -> Kept:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    request = {
        "model": str(home / "model.onnx"),
        "calibration": str(home / "calibration.npz"),
        "evaluation": str(home / "evaluation.npz"),
        "variant": variant,
        "max_drop": MAX_DROP,
        "attention": case.attention,
        "keras": str(case.keras or ""),
        "out": str(folder),
    }
    (folder / "request.json").write_text(json.dumps(request))
    facts: dict[str, Any] = {"tool": tool.name, "variant": variant, "runtime": "onnxruntime", "file": "model.onnx"}
    try:
        # From its own folder: some of them leave files where they are started.
        ended = watch(
            [str(python), str(PEERS / f"{tool.name}.py"), str(folder / "request.json")], cwd=folder, limit=_LIMIT
        )
    except subprocess.TimeoutExpired:
        return keep(folder, facts | {"failure": f"not done after {_LIMIT:.0f} s"})
    facts |= {"seconds": ended.seconds, "peak_memory": ended.peak_memory, "load": ended.load}
    facts["failure"] = failure_of(ended)
    if (folder / "said.json").is_file():
        facts |= json.loads((folder / "said.json").read_text())
    if not facts["failure"]:
        facts["bytes"] = sum(path.stat().st_size for path in folder.glob(Path(facts["file"]).stem + ".*"))
    return keep(folder, facts)


def failure_of(ended: Ended) -> str:
    if not ended.code:
        return ""
    lines = [line.strip() for line in ended.stderr.strip().splitlines() if line.strip()]
    return f"ended with {ended.code}: {lines[-1][:_TAIL] if lines else 'it said nothing'}"


def say(found: Kept) -> None:
    facts = found.facts
    seconds = f"{facts['seconds']:.1f} s, " if facts.get("seconds") else ""
    how = facts["failure"] or f"{seconds}{facts['bytes'] / 1e6:.2f} MB"
    print(f"  {found.name}: {how}", file=sys.stderr)
