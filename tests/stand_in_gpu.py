"""A GPU that stands in for one: NVML and CUDA's driver as C libraries, and runners that compute on the CPU and are
taken for such as compute on it.

What this cannot show: that a real driver answers so, and what a real card does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent
IDENTITY = "00010203-0405-0607-0809-0a0b0c0d0e0f"
H200 = {
    "uuid": f"GPU-{IDENTITY}",
    "name": "NVIDIA H200",
    "driver": "580.159.04",
    "used": "1000000",
    "sm": "1980",
    "sm-max": "1980",
    "mem": "3201",
    "mem-max": "3201",
    "milliwatts": "391657",
    "milliwatts-limit": "700000",
    "degrees": "61",
    "reasons": "0x1",
    "millijoules": "5000",
}
_RUNNERS = """
import time

from mlopt.runners.onnxruntime_cuda import CPU, OnnxRuntimeCudaRunner
from mlopt.runners.onnxruntime_graph import OnnxRuntimeCudaGraphRunner

class Plain(OnnxRuntimeCudaRunner):
    name, chain, memory, distributions = "stand-in-gpu", (CPU,), "cpu", ("onnxruntime",)

class Graph(OnnxRuntimeCudaGraphRunner):
    name, chain, memory, distributions = "stand-in-graph", (CPU,), "cpu", ("onnxruntime",)

class Choosing(Plain):
    name, before = "stand-in-choosing", None

    def infer(self, feeds):
        now = [value.shape for value in feeds.values()]
        if now != self.before:  # as cuDNN's algorithms are chosen anew
            time.sleep(0.2)
        Choosing.before = now
        return Plain.infer(self, feeds)
"""


@dataclass(frozen=True, slots=True)
class StandIn:
    """`says` is what NVML answers from now on; `environment` that of processes which find it."""

    folder: Path
    nvml: str
    cuda: str
    says: dict[str, str] = field(default_factory=lambda: dict(H200))

    def answers(self, **changed: str | None) -> None:
        """With these changed; None is taken out, so that NVML does not support it."""
        self.says.update({name.replace("_", "-"): value for name, value in changed.items() if value is not None})
        for name, value in changed.items():
            if value is None:
                self.says.pop(name.replace("_", "-"), None)
        new = self.folder / "new"
        new.write_text("".join(f"{name} {value}\n" for name, value in self.says.items()))
        new.replace(self.folder / "gpu")

    @property
    def environment(self) -> Mapping[str, str]:
        plugin = self.folder / "plugin"
        return {
            **os.environ,
            "STAND_IN_NVML": str(self.folder),
            "LD_LIBRARY_PATH": str(self.folder),
            "PYTHONPATH": str(plugin),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }


def stand_in_gpu(folder: Path, **named: str) -> StandIn:
    """With functions `named` as another driver does. Skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for what stands in for the driver")
    folder.mkdir()
    for library, source in (("libnvidia-ml.so.1", "stand_in_nvml.c"), ("libcuda.so.1", "stand_in_cuda.c")):
        others = [f"-D{name}={other}" for name, other in named.items()]
        subprocess.run(
            [compiler, "-shared", "-fPIC", *others, "-o", str(folder / library), str(HERE / source)], check=True
        )
    information = folder / "plugin" / "stand_in_gpu_runners-1.dist-info"
    information.mkdir(parents=True)
    (folder / "plugin" / "stand_in_gpu_runners.py").write_text(_RUNNERS)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-in-gpu-runners\nVersion: 1\n")
    (information / "entry_points.txt").write_text(
        "[mlopt.runners]\nstand-in-gpu = stand_in_gpu_runners:Plain\nstand-in-graph = stand_in_gpu_runners:Graph\n"
        "stand-in-choosing = stand_in_gpu_runners:Choosing\n"
    )
    smi = folder / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\necho 'NVIDIA H200, 9.0, 143771'\n")
    smi.chmod(0o755)
    made = StandIn(folder, str(folder / "libnvidia-ml.so.1"), str(folder / "libcuda.so.1"))
    made.answers()
    return made


def mlopt(stand_in: StandIn, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The program on a machine with that GPU."""
    return subprocess.run(
        [sys.executable, "-m", "mlopt", *arguments],
        env=dict(stand_in.environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
