"""Time and memory of `mlopt compile`, first run and second, and what the walk costs beside the bare runtime.

    make bench            (or: python benchmarks/compile.py --samples DIR MODEL)

Writes reports/published/compile.json and .md with the command, versions and machine. The peer is ONNX Runtime's own
`quantize_static` and an evaluation loop in one process, on the same model, samples and threads, run in turn with
mlopt in one go: ratios, because absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from watched import machine, watch

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
RECIPES = ("fp32", "fp16", "int8-static", "int8-matmul", "int8-static-percentile")
PEER = """
import sys, time
from pathlib import Path
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from mlopt.samples.open import Asked, open_samples
from mlopt.signature import signature_of
import onnxruntime as ort
model, samples, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
split = open_samples(Asked(samples), signature_of(model))
class Reader(CalibrationDataReader):
    def __init__(self): self.feeds = split.calibration.feeds(batch=1)
    def get_next(self): return next(self.feeds, None)
quantize_static(str(model), str(out / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
for path in (model, out / "int8.onnx"):
    options = ort.SessionOptions(); options.intra_op_num_threads = 2
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for feeds in split.evaluation.feeds(batch=8): session.run(None, feeds)
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model", type=Path, nargs="?", default=DATA / "models" / "onnx" / "squeezenet1_0.onnx")
    options.add_argument("--samples", type=Path, default=DATA / "nips17_imagenet")
    options.add_argument("--rounds", type=int, default=2)
    said = options.parse_args()
    if not said.model.is_file() or not said.samples.is_dir():
        sys.exit(f"skipped: {said.model} or {said.samples} is not there; name a model and --samples")
    rounds = [one_round(said.model, said.samples) for _ in range(said.rounds)]
    publish(said.model, said.samples, rounds)


def one_round(model: Path, samples: Path) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory(prefix="mlopt-bench-") as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-m", "mlopt", "compile", str(model), "--samples", str(samples), "--no-image", "-q"]
        command += [flag for name in RECIPES for flag in ("--recipe", name)]
        command += ["--cache-dir", str(folder / "store"), "--out", str(folder / "out")]
        first = timed(command)
        report = json.loads(next((folder / "out").glob("*/host/report.json")).read_text())
        second = timed(command)
        again = json.loads(next((folder / "out").glob("*/host/report.json")).read_text())
        measuring = sum(step["seconds"] for step in again["steps"] if step["step"] == "measure")
        second["beside_measuring"] = second["seconds"] - measuring
        second["steps_done_twice"] = sum(not step["cached"] for step in again["steps"] if step["step"] != "measure")
        first["measuring"] = sum(step["seconds"] for step in report["steps"] if step["step"] == "measure")
        (folder / "peer").mkdir()
        peer = timed([sys.executable, "-c", PEER, str(model), str(samples), str(folder / "peer")])
        shutil.rmtree(folder / "store")
        return {"first": first, "second": second, "peer": peer}


def timed(command: list[str]) -> dict[str, float]:
    """Wall seconds and the largest sum of resident memory over the process and its descendants, in bytes."""
    ended = watch(command)
    if ended.code:
        sys.exit(f"{command} ended with {ended.code}\n{ended.stderr}")
    return {"seconds": ended.seconds, "peak_memory": ended.peak_memory}


def publish(model: Path, samples: Path, rounds: list[dict[str, dict[str, float]]]) -> None:
    best = {
        run: {key: min(each[run][key] for each in rounds) for key in rounds[0][run]}
        for run in ("first", "second", "peer")
    }
    facts: dict[str, Any] = {
        "command": f"mlopt compile {model.name} --samples {samples.name} --no-image "
        + " ".join(f"--recipe {name}" for name in RECIPES),
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "onnx", "numpy")},
        "rounds": rounds,
        "best": best,
        "first_over_peer": best["first"]["seconds"] / best["peer"]["seconds"],
    }
    into = ROOT / "reports" / "published"
    into.mkdir(parents=True, exist_ok=True)
    (into / "compile.json").write_text(json.dumps(facts, indent=1) + "\n")
    rows = [
        "# Time and memory of `mlopt compile`",
        "",
        f"`{facts['command']}`",
        "",
        f"Machine: {facts['machine']}. "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". {len(rounds)} rounds, each run in turn; the quickest of each is shown.",
        "",
        "| | seconds | of it measuring | peak memory (PSS, all processes) |",
        "|---|---|---|---|",
        f"| first run, {len(RECIPES)} recipes | {best['first']['seconds']:.1f} | {best['first']['measuring']:.1f} | "
        f"{best['first']['peak_memory'] / 1e6:.0f} MB |",
        f"| second run, nothing changed | {best['second']['seconds']:.1f} | "
        f"{best['second']['seconds'] - best['second']['beside_measuring']:.1f} | "
        f"{best['second']['peak_memory'] / 1e6:.0f} MB |",
        "| peer: ONNX Runtime's quantize_static (one int8 variant) and an evaluation loop, nothing timed or judged | "
        f"{best['peer']['seconds']:.1f} | 0 | {best['peer']['peak_memory'] / 1e6:.0f} MB |",
        "",
        f"Steps that the second run did again: {best['second']['steps_done_twice']:.0f}. Beside measuring it took "
        f"{best['second']['beside_measuring']:.1f} s.",
        "",
    ]
    (into / "compile.md").write_text("\n".join(rows))
    print("\n".join(rows))


if __name__ == "__main__":
    main()
