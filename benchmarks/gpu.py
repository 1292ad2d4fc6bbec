"""What precision, compilation, channel widths, sparsity and other runtimes are worth on the NVIDIA GPU of this machine.

    make bench-gpu            (or: python benchmarks/gpu.py [PART…] --seconds 300)

Needs PyTorch for CUDA; parts that need more (TensorRT for RTX, ONNX Runtime for CUDA) say what is missing and are
skipped. Variants are visited in turned order every round; a time runs from the call until the GPU is idle again (a
synchronised host clock). Clocks, power and memory are read through NVML and never set. Writes gpu-DEVICE.json, and
gpu-DEVICE.md from it; parts named later are added to what is there of the same device. `--device cpu` runs everything
once at small sizes: that tests the program, and says nothing of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

try:
    import torch
except ImportError:
    sys.exit("skipped: PyTorch is not installed")

from on_gpu.bench import Bench, readings
from on_gpu.nets import compiled, nets, widths
from on_gpu.page import markdown
from on_gpu.runtimes import mlopt_runner, onnxruntime_cuda, tensorrt_rtx
from on_gpu.units import products, sparsity

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # mlopt's reader of NVML needs no installation
PARTS = {
    "nets": nets,
    "widths": widths,
    "products": products,
    "sparsity": sparsity,
    "tensorrt-rtx": tensorrt_rtx,
    "onnxruntime-cuda": onnxruntime_cuda,
    "mlopt": mlopt_runner,
    "compiled": compiled,
}
DISTRIBUTIONS = (
    *("torch", "triton", "numpy", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings"),
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    options.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options.add_argument("--seconds", type=float, default=400, help="after so many, nothing more is begun")
    options.add_argument("--net", dest="nets", action="append", default=[], help="of the parts with nets, only this")
    options.add_argument("--out", type=Path, default=ROOT / "reports" / "published")
    said = options.parse_args()
    if unknown := set(said.parts) - set(PARTS):
        options.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if said.device == "cuda" and not torch.cuda.is_available():
        sys.exit("skipped: PyTorch sees no NVIDIA GPU here (--device cpu tests the program)")
    torch.manual_seed(0)
    bench = Bench.on(said.device, said.seconds, tuple(said.nets))
    found = run(said.parts or list(PARTS), bench, said.out)
    page = markdown(found)
    file_of(found["machine"], said.out).with_suffix(".md").write_text(page)
    print(page)


def run(parts: list[str], bench: Bench, out: Path) -> dict[str, Any]:
    """The parts, one after the other; what was found is on disk after each."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"machine": machine(bench), "parts": {}}
    file = file_of(found["machine"], out)
    if file.exists():
        found["parts"] = json.loads(file.read_text())["parts"]
    print(json.dumps(found["machine"], indent=1), flush=True)
    for name in parts:
        bench.skipped.clear()
        began = time.monotonic()
        command = " ".join(["python benchmarks/gpu.py", name, *(f"--net {net}" for net in bench.only)])
        part: dict[str, Any] = {"command": f"{command} --device {bench.device}"}
        if bench.left() <= 0:
            bench.skip(name, "the time given was over")
        else:
            part["before"] = readings(bench)
            try:
                part["found"] = PARTS[name](bench)
            except Exception as error:  # one part's failure is a finding; the others are worth having
                traceback.print_exc()
                bench.skip(name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            part["after"] = readings(bench)
        if bench.only and name in found["parts"]:  # some nets more
            part["found"] = found["parts"][name].get("found", {}) | part.get("found", {})
        found["parts"][name] = part | {"skipped": list(bench.skipped), "seconds": time.monotonic() - began}
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        file.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    return found


def file_of(machine: dict[str, Any], out: Path) -> Path:
    """One for each kind of device: gpu-nvidia-h200.json."""
    return out / f"gpu-{'-'.join(re.findall('[a-z0-9]+', machine['device'].lower()))}.json"


def machine(bench: Bench) -> dict[str, Any]:
    """What the figures belong to: device, driver, versions."""
    versions = {}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {
        "device": "CPU (a test of the program)",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions,
    }
    if bench.cuda:
        seen = torch.cuda.get_device_properties(0)
        facts |= {
            "device": seen.name,
            "compute_capability": f"{seen.major}.{seen.minor}",
            "memory": seen.total_memory,
            "multiprocessors": seen.multi_processor_count,
            "driver": readings(bench).get("driver"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    return facts


if __name__ == "__main__":
    main()
