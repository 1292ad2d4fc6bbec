"""Time, ranges and memory of mlopt's calibrators beside ONNX Runtime's, on real models and samples.

    python benchmarks/calibrators.py [--samples DIR] [MODEL…]

Writes reports/published/calibrators.json and .md with the command, versions and machine. Every figure comes from a
fresh process; mlopt and ONNX Runtime run in turn on the same prepared model, samples and cores. Seconds hold decoding,
inference, counting and the choice of ranges, not the preparation of the model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from watched import cpu

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
MODELS = ("squeezenet1_0.onnx",)
METHODS = {"entropy": "Entropy", "percentile": "Percentile"}
BINS, QUANTIZED_BINS = 2048, 128
COUNTS = (32, 512, 4096)
PREPARE = """
import sys
from pathlib import Path
import onnx
from mlopt.artifact import ONNX, Artifact
from mlopt.steps.quantizer import prepared
model, out = Path(sys.argv[1]), Path(sys.argv[2])
(out / "source").mkdir()
(out / "source" / "model.onnx").write_bytes(model.read_bytes())
with prepared(Artifact(ONNX, "", out / "source"), optimize=True) as proto:
    onnx.save(proto, str(out / "prepared.onnx"))
"""
# argv: prepared model, samples, number of samples, cores, result, method; samples repeat where there are too few.
BEGIN = """
import json, os, sys, time
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:int(sys.argv[4])])
from dataclasses import replace
from pathlib import Path
import onnx
from onnxruntime.quantization.registry import QDQRegistry
from mlopt.samples.open import Asked, open_samples
from mlopt.signature import signature_of
model, count = Path(sys.argv[1]), int(sys.argv[3])
samples = open_samples(Asked(sys.argv[2], calibration=256), signature_of(model)).calibration
samples = replace(samples, indices=(samples.indices * (count // len(samples) + 1))[:count])
op_types = sorted(QDQRegistry)
"""
OURS = f"""
from mlopt.steps.qdq import Qdq
from mlopt.steps.ranges import Calibration, observe
names = Qdq("u8s8", per_channel=True).activations(onnx.load(str(model)).graph)
began = time.monotonic()
found = observe(model, names, lambda: samples.feeds(batch=1),
                Calibration(sys.argv[6], bins={BINS}, quantized_bins={QUANTIZED_BINS}))
seconds = time.monotonic() - began
ranges = {{name: [seen.low, seen.high] for name, seen in found.items()}}
"""
PEER = f"""
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator
class Reader(CalibrationDataReader):
    def __init__(self): self.feeds = samples.feeds(batch=1)
    def get_next(self): return next(self.feeds, None)
options = {{"num_bins": {BINS}, "symmetric": False}}
if sys.argv[6] == "entropy":
    options["num_quantized_bins"] = {QUANTIZED_BINS}
began = time.monotonic()
calibrator = create_calibrator(model, op_types, str(model.with_name("augmented.onnx")),
                               CalibrationMethod[{METHODS}[sys.argv[6]]], extra_options=options)
calibrator.collect_data(Reader())
found = calibrator.compute_data()
seconds = time.monotonic() - began
ranges = {{name: [float(bound) for bound in data.range_value] for name, data in found.items()}}
edges = {{name: seen[1] for name, seen in calibrator.collector.histogram_dict.items()}}
bins = {{name: float(each[1] - each[0]) for name, each in edges.items()}}
"""
END = """
status = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
Path(sys.argv[5]).write_text(json.dumps({"seconds": seconds, "peak_memory": peak, "ranges": ranges, **more}))
"""
PROGRAMS = {"ours": BEGIN + OURS + "more = {}" + END, "peer": BEGIN + PEER + "more = {'bins': bins}" + END}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("models", type=Path, nargs="*", default=[DATA / "models" / "onnx" / name for name in MODELS])
    options.add_argument("--samples", type=Path, default=DATA / "nips17_imagenet")
    options.add_argument("--count", type=int, default=64, help="samples for the comparison with ONNX Runtime")
    options.add_argument("--cores", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    said = options.parse_args()
    if not said.samples.is_dir() or not all(model.is_file() for model in said.models):
        sys.exit(f"skipped: {said.samples} or a model is not there; name models and --samples")
    compared = {}
    for model in said.models:
        with tempfile.TemporaryDirectory(prefix="mlopt-bench-") as scratch:
            _python(PREPARE, model, scratch)
            ready = Path(scratch) / "prepared.onnx"
            for method in METHODS:
                compared[f"{model.name}, {method}"] = compare(method, ready, said)
            if model == said.models[0]:
                memory = {
                    count: one("ours", "entropy", ready, said.samples, count, said.cores)["peak_memory"]
                    for count in COUNTS
                }
    publish(said, compared, memory)


def compare(method: str, model: Path, said: argparse.Namespace) -> dict[str, Any]:
    runs = [
        {
            program: one(program, method, model, said.samples, said.count, said.cores)
            for program in (("ours", "peer") if number % 2 == 0 else ("peer", "ours"))
        }
        for number in range(said.rounds)
    ]
    ours, peer = runs[0]["ours"]["ranges"], runs[0]["peer"]["ranges"]
    if ours.keys() != peer.keys():
        sys.exit(f"not the same tensors: {sorted(ours.keys() ^ peer.keys())}")
    apart = {
        name: max(abs(mine - theirs) for mine, theirs in zip(ours[name], peer[name], strict=True))
        / runs[0]["peer"]["bins"][name]
        for name in sorted(ours)
    }
    ratios = sorted(run["peer"]["seconds"] / run["ours"]["seconds"] for run in runs)
    return {
        "samples": said.count,
        "tensors": len(apart),
        "seconds": {program: [run[program]["seconds"] for run in runs] for program in ("ours", "peer")},
        "peak_memory": {program: max(run[program]["peak_memory"] for run in runs) for program in ("ours", "peer")},
        "times_faster": {"least": ratios[0], "median": ratios[len(ratios) // 2], "most": ratios[-1]},
        "most_bins_apart": max(apart.values()),
        "tensors_over_a_hundredth_of_a_bin_apart": sum(bins > 0.01 for bins in apart.values()),
    }


def one(program: str, method: str, model: Path, samples: Path, count: int, cores: int) -> dict[str, Any]:
    result = model.with_name("result.json")
    _python(PROGRAMS[program], model, samples, count, cores, result, method)
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def _python(program: str, *arguments: object) -> None:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"})
    if done.returncode:
        sys.exit(done.stderr)


def publish(said: argparse.Namespace, compared: dict[str, Any], memory: dict[int, int]) -> None:
    facts = {
        "command": f"python benchmarks/calibrators.py {' '.join(model.name for model in said.models)} "
        f"--samples {said.samples.name} --count {said.count} --cores {said.cores} --rounds {said.rounds}",
        "machine": f"{cpu()}, {said.cores} of {len(os.sched_getaffinity(0))} cores, "
        f"{platform.system()} {platform.release()}",
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "onnx", "numpy")},
        "bins": BINS,
        "quantized_bins": QUANTIZED_BINS,
        "models": compared,
        "memory": {"model": said.models[0].name, "peak_by_samples": memory},
    }
    into = ROOT / "reports" / "published"
    into.mkdir(parents=True, exist_ok=True)
    (into / "calibrators.json").write_text(json.dumps(facts, indent=1) + "\n")
    rows = [
        "# Calibrators beside ONNX Runtime's",
        "",
        f"`{facts['command']}`",
        "",
        f"Machine: {facts['machine']}. "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". {BINS} bins (mlopt's percentile has its own), {QUANTIZED_BINS} quantized; {said.rounds} rounds in turn, "
        "each run a fresh process.",
        "",
        "| model, calibrator | samples | mlopt, s | ONNX Runtime, s | times faster (least to most) | ranges apart, bins"
        " | peak memory: mlopt | ONNX Runtime |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, found) for name, found in compared.items()),
        "",
        f"Seconds are the quickest round's. Peak memory (VmHWM) of mlopt's on {said.models[0].name}, entropy in two "
        "passes, by number of samples:",
        "",
        "| samples | peak memory | of the first |",
        "|---|---|---|",
        *(f"| {count} | {peak / 1e6:.1f} MB | {peak / memory[COUNTS[0]]:.3f} |" for count, peak in memory.items()),
        "",
    ]
    (into / "calibrators.md").write_text("\n".join(rows))
    print("\n".join(rows))


def _row(name: str, found: dict[str, Any]) -> str:
    best = {program: min(seconds) for program, seconds in found["seconds"].items()}
    peak = {program: f"{most / 1e6:.0f} MB" for program, most in found["peak_memory"].items()}
    faster = found["times_faster"]
    return (
        f"| {name} | {found['samples']} | {best['ours']:.1f} | {best['peer']:.1f} | {faster['median']:.1f} "
        f"({faster['least']:.1f} to {faster['most']:.1f}) | at most {found['most_bins_apart']:.2g} in "
        f"{found['tensors']} tensors | {peak['ours']} | {peak['peer']} |"
    )


if __name__ == "__main__":
    main()
