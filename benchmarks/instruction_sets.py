"""int8 models on the instruction sets that they may meet: accuracy, how far apart, how many answers change.

    python benchmarks/instruction_sets.py [--out OUT] [--models NAME…] [--seconds N] [--arm N]

Writes reports/published/instruction-sets.json and .md after every cell, and leaves out what is there already of this
machine, so that it may be stopped and started again; --seconds stops it by itself. x86 is this processor with
instruction sets hidden, and AVX2 once more in qemu-user; Arm is qemu-user with the files of mlopt's image, on the first
--arm samples. Without qemu-user 10 or newer the rest of the table is made. It needs ../shared/data.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from headtohead.cases import CASES, exported, prepare, split_of

from mlopt.emulate.compare import on_each
from mlopt.emulate.sets import SETS, find_sets, way_for
from mlopt.errors import MissingDependency
from mlopt.host import detect
from mlopt.image.fetch import Inputs
from mlopt.intervals import allowed
from mlopt.onnx_file import load_graph
from mlopt.plan import plan
from mlopt.profile import find_profile
from mlopt.recipe import find_recipe
from mlopt.repair.pairs import overflowing
from mlopt.signature import signature
from mlopt.store import Store, default_root
from mlopt.target import find_target

ROOT = Path(__file__).resolve().parents[1]
INTO = ROOT / "reports" / "published" / "instruction-sets.json"
MODELS = ("resnet8", "resnet20", "mobilenetv1_x0_25")
X86, ARM = ("avx2", "avx512", "avx-vnni", "avx512-vnni"), ("armv8.0", "armv8.2-dotprod", "armv8.4-i8mm")
RECIPES = ("int8-static", "int8-repaired", "openvino-int8")
LIMIT = 0.002
HERE = "x86-64-avx512-vnni"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, default=Path("out"), help="where models and samples are kept")
    options.add_argument("--models", nargs="*", default=MODELS)
    options.add_argument("--seconds", type=float, default=1e9)
    options.add_argument("--arm", type=int, default=100)
    options.add_argument("--qemu", type=int, default=100, help="samples for AVX2 in qemu-user")
    said = options.parse_args()
    until = time.monotonic() + said.seconds
    runs: list[dict[str, Any]] = json.loads(INTO.read_text())["runs"] if INTO.exists() else []
    machine = f"{detect().cpu}, {platform.system()} {platform.release()}"
    facts = next((one for one in runs if one["machine"] == machine), {"machine": machine, "rows": {}})
    runs = [*(one for one in runs if one is not facts), facts]
    facts |= {
        "command": "python benchmarks/instruction_sets.py",
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "openvino", "onnx", "numpy")},
        "date": time.strftime("%Y-%m"),
        "limit": LIMIT,
    }
    for name in said.models:
        home = (said.out / "instruction-sets" / name).absolute()
        if why := prepare(CASES[name], home):
            print(f"{name}: {why}")
            continue
        for label, artifact, runtime in artifacts(home):
            for wanted, qemu, count in groups(label, said.arm, said.qemu):
                keys = {one: f"{name}/{label}/{one}{'/qemu' if qemu else ''}" for one in wanted}
                missing = [one for one, key in keys.items() if key not in facts["rows"] and possible(one, qemu=qemu)]
                if missing and time.monotonic() < until:
                    for one, row in rows(home, artifact, runtime, missing, qemu=qemu, count=count):
                        facts["rows"][keys[one]] = row
                        publish(runs)
                        print(keys[one], row["apart"], row["outcome"], flush=True)
    publish(runs)


def artifacts(home: Path) -> Iterator[tuple[str, Path, str]]:
    """What is made for x86 and for Arm, and what would be made for x86 if VNNI were taken for granted."""
    model, split, store = exported(home), split_of(home), Store(default_root())
    budget = allowed(find_profile("balanced").budgets, len(split.evaluation), labelled=True)
    recipes = [find_recipe(name) for name in RECIPES]
    for target, scheme, suffix in ((HERE, "", ""), (HERE, "u8s8", " plain"), ("rpi5", "", " for Arm")):
        made = plan(signature(model), find_target(target), recipes, split.calibration, split.calibration, budget)
        for candidate in made.candidates[1:]:
            artifact = model
            for step in candidate.steps:
                if scheme and hasattr(step, "scheme"):
                    step = dataclasses.replace(step, scheme=scheme)  # type: ignore[type-var]
                artifact = store.run(step, artifact)
            yield f"{candidate.name}{suffix}", artifact.main, candidate.runtime


def groups(label: str, arm: int, qemu: int) -> Iterator[tuple[tuple[str, ...], bool, int]]:
    """Sets that are run on the same samples; what Arm makes of any weights is the same."""
    if not label.endswith("for Arm"):
        yield X86, False, 1 << 30
    if label in ("int8-static", "openvino-int8"):
        yield ("avx2",), True, qemu
    if label in ("int8-static", "int8-repaired") or label.endswith("for Arm"):
        yield ARM, False, arm


def possible(name: str, *, qemu: bool) -> bool:
    try:
        way_for(SETS[name], qemu=qemu)
    except MissingDependency as error:
        print(f"{name}: {error.what}")
        return False
    return True


def rows(
    home: Path, model: Path, runtime: str, wanted: list[str], *, qemu: bool, count: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    evaluation = split_of(home).evaluation
    for found in on_each(model, find_sets(wanted), evaluation, runtime=runtime, count=count, limit=LIMIT,
                         labels=evaluation.labels, inputs=Inputs(), qemu=qemu):  # fmt: skip
        accuracy = found.accuracy
        assert accuracy.drop
        assert accuracy.agreement
        yield (
            found.instructions,
            {
                "how": found.way,
                "grade": accuracy.grade,
                "samples": accuracy.samples,
                "top1": accuracy.top1,
                "top1_here": accuracy.baseline_top1,
                "apart": [accuracy.drop.value, accuracy.drop.low, accuracy.drop.high],
                "agreement": accuracy.agreement.value,
                "largest": found.largest,
                "outcome": found.outcome,
                "overflowing": len(overflowing(load_graph(model).graph)),
            },
        )


def publish(runs: list[dict[str, Any]]) -> None:
    """Write the JSON and the table made from it."""
    INTO.write_text(json.dumps({"runs": runs}, indent=1, sort_keys=True) + "\n")
    lines = [
        "# int8 on other instruction sets",
        "",
        "Emulated: x86 is the processor with the rest hidden from the runtime, or qemu-user; Arm is qemu-user. *Apart* "
        "is top-1 on the processor as it is less top-1 there, paired, with its 95 % interval; *same class* counts all "
        "answers; *largest* is the largest difference of any output as a part of the largest. *Plain* is what `u8s8` "
        "would make where VNNI is taken for granted: mlopt makes no such model unasked, and leaves it out of images.",
        "",
    ]
    for facts in runs:
        lines += _tables(facts)
    lines += ["## How", "", *(f"* {name}: {one.summary}" for name, one in SETS.items())]
    INTO.with_suffix(".md").write_text("\n".join(lines) + "\n")


def _tables(facts: dict[str, Any]) -> list[str]:
    """Of one machine."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [f"## {facts['machine']}", "", f"`{facts['command']}`, {facts['date']}; {versions}.", ""]
    for name in sorted({key.split("/")[0] for key in facts["rows"]}):
        lines += [
            f"### {name}",
            "",
            "| model | on | samples | top-1 | apart, points | same class | largest | |",
            "|---|---|--:|--:|--:|--:|--:|---|",
        ]
        for key, row in sorted(facts["rows"].items()):
            model, label, instructions, *_ = key.split("/")
            if model == name:
                lines.append(_line(label, instructions, row))
        lines.append("")
    return lines


def _line(label: str, instructions: str, row: dict[str, Any]) -> str:
    value, low, high = (100 * part + 0.0 for part in row["apart"])
    where = f"{instructions} ({row['how']})" if "qemu" in row["how"] else instructions
    return (
        f"| {label} | {where} | {row['samples']} | {row['top1']:.2%} | {value:+.2f} [{low:+.2f}, {high:+.2f}] | "
        f"{row['agreement']:.2%} | {row['largest']:.1e} | {row['outcome']} |"
    )


if __name__ == "__main__":
    main()
