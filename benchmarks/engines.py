"""Engines by TensorRT for RTX, built on this machine without a GPU: model × precision × compute capability.

    python benchmarks/engines.py [--samples DIR] [MODEL…]

Without MODEL: two real nets, and a small vision transformer with random weights. Rows of models that were not asked
for stay as they were published. Each engine is built twice, in two fresh stores: size, seconds of the compiler's
process, and whether both have one digest. Nothing is run. Writes reports/published/engines.json and .md; what is
refused stands there in the words of who refuses it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from shapes import vision_transformer

from mlopt.artifact import Artifact
from mlopt.engines import RTX_CAPABILITIES, shape_ranges
from mlopt.errors import MloptError
from mlopt.samples.open import Asked, open_samples
from mlopt.signature import signature
from mlopt.source import open_model
from mlopt.step import Step, installed
from mlopt.steps.build_tensorrt_rtx import BuildTensorrtRtx
from mlopt.steps.convert_fp16 import ConvertFp16
from mlopt.steps.normalize_onnx import NormalizeOnnx
from mlopt.steps.optimize_graph import OptimizeGraph
from mlopt.steps.quantize_fp8 import QuantizeFp8
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.quantize_weight_blocks import QuantizeWeightBlocks
from mlopt.store import Store

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
TRANSFORMER = "vision_transformer-shape.onnx"
REAL = DATA / "models" / "onnx"
DEFAULT = (REAL / "mobilenetv1_x0_25.onnx", REAL / "squeezenet1_0.onnx", Path(TRANSFORMER))
FLEET = ",".join(RTX_CAPABILITIES[1:])
_FOR = re.compile(r" for compute capability [0-9., ]+| for target\(s\)(?: sm[0-9]+,)+")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", type=Path, nargs="*")
    options.add_argument("--samples", type=Path, default=DATA / "nips17_imagenet")
    said = options.parse_args()
    if installed("tensorrt-rtx") is None:
        sys.exit("skipped: tensorrt-rtx is not installed (pip install '.[tensorrt]')")
    with tempfile.TemporaryDirectory(prefix="mlopt-engines-") as scratch:
        made = Path(scratch) / TRANSFORMER
        onnx.save(vision_transformer(), str(made))
        models = [made if model.name == TRANSFORMER else model for model in said.models or DEFAULT]
        if not said.samples.is_dir() or not all(model.is_file() for model in models):
            sys.exit(f"skipped: {said.samples} or a model is not there; name models and --samples")
        for model in models:
            publish(said, of_model(model, said.samples))


def of_model(model: Path, samples: Path) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="mlopt-engines-") as scratch:
        store = Store(Path(scratch) / "models")
        source = open_model(model, store=store)
        exported = store.run(NormalizeOnnx(opset=20, minimum_opset=19), source)
        facts = signature(exported)
        split = open_samples(Asked(str(samples), calibration=64), facts)
        half = ConvertFp16(probe=split.calibration)
        int8 = QuantizeStatic(calibration=split.calibration, scheme="s8s8-tensorrt", calibrator="entropy")
        ways: dict[str, tuple[Step, ...]] = {
            "fp32": (OptimizeGraph("basic"),),
            "fp16": (half,),
            "int8, rest fp32": (int8,),
            "int8, rest fp16": (int8, half),
            "fp8, rest fp16": (QuantizeFp8(calibration=split.calibration), half),
            "int4 weights, rest fp16": (QuantizeWeightBlocks("int4", 128), half),
            "fp4 weights, rest fp16": (QuantizeWeightBlocks("fp4", 16), half),
        }
        shapes = shape_ranges(facts, {}, 8)
        rows = []
        for precision, steps in ways.items():
            try:
                typed = exported
                for step in steps:
                    typed = store.run(step, typed)
            except MloptError as error:
                rows.append({"model": model.name, "precision": precision, "capability": "", "refused": error.what})
                continue
            for capability in (*RTX_CAPABILITIES, FLEET):
                fp4 = precision.startswith("fp4")
                step = BuildTensorrtRtx(tuple(capability.split(",")), shapes=shapes, fp4=fp4)
                row = {"model": model.name, "precision": precision, "capability": capability, "onnx_bytes": typed.bytes}
                rows.append(row | built_twice(step, typed, Path(scratch)))
        return rows


def built_twice(step: BuildTensorrtRtx, typed: Artifact, scratch: Path) -> dict[str, Any]:
    digests, seconds = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory(dir=scratch) as fresh:
            began = time.monotonic()
            try:
                engine = Store(Path(fresh)).run(step, typed)
            except MloptError as error:
                return {"refused": error.what}
            seconds.append(time.monotonic() - began)
            digests.append(engine.digest)
            size = engine.main.stat().st_size
    return {"bytes": size, "seconds": min(seconds), "digest": digests[0], "same_twice": digests[0] == digests[1]}


def publish(said: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    into = ROOT / "reports" / "published"
    asked = {row["model"] for row in rows}
    before = json.loads((into / "engines.json").read_bytes())["engines"] if (into / "engines.json").is_file() else []
    rows = sorted([row for row in before if row["model"] not in asked] + rows, key=lambda row: str(row["model"]))
    facts = {
        "command": f"python benchmarks/engines.py --samples {said.samples.name}",
        "machine": f"{_cpu()}, cores: {len(os.sched_getaffinity(0))}, no GPU, {platform.system()} {platform.release()}",
        "versions": {name: metadata.version(name) for name in ("mlopt", "tensorrt-rtx", "onnx", "onnxruntime")},
        "engines": rows,
    }
    (into / "engines.json").write_text(json.dumps(facts, indent=1) + "\n")
    made = [row for row in rows if "bytes" in row]
    # Once for all compute capabilities that it is said of: the cells tell which.
    refused = {_FOR.sub("", row["refused"]) for row in rows if "refused" in row}
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    lines = [
        "# Engines by TensorRT for RTX, built and not run",
        "",
        f"`{facts['command']}`",
        "",
        f"Machine: {facts['machine']}. {versions}. {len(made)} engines, each built twice in fresh stores: "
        f"{sum(row['same_twice'] for row in made)} with the same digest both times. "
        "Seconds are those of the compiler's process, the quicker of two; batch 1 to 8.",
        "",
        f"| model | precision | ONNX | {' | '.join(RTX_CAPABILITIES)} | all but 7.5 in one | seconds | same twice |",
        "|---|---|---" + "|---" * (len(RTX_CAPABILITIES) + 3) + "|",
    ]
    for (model, precision), group in itertools.groupby(rows, key=lambda row: (row["model"], row["precision"])):
        cells = {row["capability"]: row for row in group}
        found = [cells.get(capability, {}) for capability in (*RTX_CAPABILITIES, FLEET)]
        sizes = [f"{row['bytes'] / 1e6:.2f} MB" if "bytes" in row else "refused" for row in found]
        built = [row for row in found if "seconds" in row]
        seconds = [row["seconds"] for row in built]
        took = f"{min(seconds):.1f} to {max(seconds):.1f}" if seconds else ""
        same = f"{sum(row['same_twice'] for row in built)} of {len(built)}" if built else ""
        size = f"{built[0]['onnx_bytes'] / 1e6:.2f} MB" if built else ""
        lines.append(f"| {' | '.join([model, precision, size, *sizes, took, same])} |")
    lines += ["", *(f"* refused: {reason}" for reason in sorted(refused))]
    (into / "engines.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
