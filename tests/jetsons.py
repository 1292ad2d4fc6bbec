"""A folder that passes for a Jetson in tests: what /proc and /etc say there, and a trtexec and nvpmodel on PATH."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nets
import numpy as np
import pytest

from mlopt.artifact import DEVICE_BUILD, ONNX, Artifact, digest_of
from mlopt.device.pack import Packed, pack
from mlopt.engines import shape_ranges
from mlopt.samples.generated import GeneratedSamples
from mlopt.signature import signature
from mlopt.steps.convert_fp16 import ConvertFp16
from mlopt.steps.pack_tensorrt_build import PackTensorrtBuild
from mlopt.target import find_target

HERE = Path(__file__).parent
ORIN_NANO = "NVIDIA Jetson Orin Nano Developer Kit"
RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan 8\n"


@dataclass(frozen=True, slots=True)
class Jetson:
    """`behave` says what its trtexec does from then on; `calls` is what it was called with."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def env(self) -> dict[str, str]:
        """Of processes that run on it: its own programs first, and this machine's own after."""
        path = os.pathsep.join((str(self.folder / "bin"), str(Path(sys.executable).parent), "/usr/bin", "/bin"))
        return {"PATH": path, "MLOPT_DEVICE_ROOT": str(self.root), "ORT_DISABLE_TELEMETRY": "1"}

    def behave(self, **wanted: Any) -> None:
        (self.folder / "bin" / "behaviour.json").write_text(json.dumps(wanted))

    def calls(self) -> list[list[str]]:
        file = self.folder / "bin" / "calls.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def say(self, file: str, text: str) -> None:
        """Put a file below its root."""
        (self.root / file).parent.mkdir(parents=True, exist_ok=True)
        (self.root / file).write_text(text)


def jetson(folder: Path, *, board: str = ORIN_NANO, release: str = RELEASE, memory: int = 8_000_000) -> Jetson:
    """An Orin Nano with JetPack 6.2, unless it is told to be another; `memory` in kB, of which half is free."""
    made = Jetson(folder)
    (folder / "bin").mkdir(parents=True)
    made.say("proc/device-tree/model", board + "\0")
    made.say("etc/nv_tegra_release", release)
    made.say(
        "proc/meminfo", f"MemTotal: {memory} kB\nMemAvailable: {memory // 2} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    )
    made.say("usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}}')
    program(folder / "bin" / "nvpmodel", "print('NV Power Mode: 15W')\nprint(0)\n")
    program(folder / "bin" / "trtexec", (HERE / "stand_in_trtexec.py").read_text())
    made.behave()
    return made


def program(path: Path, source: str) -> None:
    """A Python program on PATH, run by this Python."""
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(0o755)


def with_module(made: Jetson) -> Path:
    """TensorRT's Python module and a driver that stand in for the vendor's, and the Python that finds them. Skips the
    test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, for what stands in for the driver")
    beside = made.folder / "stand-ins"
    beside.mkdir()
    shutil.copy(HERE / "stand_in_tensorrt.py", beside / "tensorrt.py")
    library = ("-shared", "-fPIC", "-o", str(beside / "libcuda.so.1"), str(HERE / "stand_in_cuda.c"))
    subprocess.run([compiler, *library], check=True)
    python = made.folder / "bin" / "python3"
    found = f"export PYTHONPATH={beside} LD_LIBRARY_PATH={beside}"
    python.write_text(f'#!/bin/sh\n{found}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return python


def without_trtexec(made: Jetson) -> None:
    (made.folder / "bin" / "trtexec").unlink()


def installed_at_the_vendors_place(made: Jetson) -> None:
    """trtexec where JetPack puts it, which is not on PATH."""
    there = made.root / "usr/src/tensorrt/bin"
    there.mkdir(parents=True)
    shutil.move(made.folder / "bin" / "trtexec", there / "trtexec")
    shutil.copy(made.folder / "bin" / "behaviour.json", there / "behaviour.json")


@dataclass(frozen=True, slots=True)
class Feeds:
    """The same few inputs, as samples give them."""

    some: list[dict[str, np.ndarray]]

    def feeds(self, *, batch: int) -> list[dict[str, np.ndarray]]:
        return [one for one in self.some if all(len(value) == batch for value in one.values())]


def packed_words(place: Path) -> Packed:
    """device/ of a model with an input of 64-bit integers and one with a colon in its name."""
    rng = np.random.default_rng(0)
    (place / "net").mkdir(parents=True)
    nets.save(nets.words_net(), place / "net" / "model.onnx")
    model = Artifact(ONNX, digest_of(place / "net"), place / "net")
    facts = signature(model)
    (place / "step").mkdir()
    PackTensorrtBuild(shapes=shape_ranges(facts, {}, 8)).run(model, place / "step")
    builds = {"tensorrt-fp32": Artifact(DEVICE_BUILD, digest_of(place / "step"), place / "step")}
    some = [
        {"ids": rng.integers(0, 16, (1, 4)), "x:0": rng.standard_normal((1, 8)).astype(np.float32)} for _ in range(3)
    ]
    samples: Any = Feeds(some)
    target = find_target("jetson-orin-nano-8gb")
    return pack(
        builds, place / "device", model="w", target=target, signature=facts, samples=samples, batch=1, threads=1
    )


def packed(
    place: Path, *, batch: str | int = "N", names: tuple[str, ...] = ("tensorrt-fp32",), sparse: bool = False
) -> Packed:
    """device/ as a bundle holds it, of a small convolutional net; `sparse`: with two of each four weights zero."""
    (place / "net").mkdir(parents=True)
    net = nets.conv_net(batch=batch)
    nets.save(nets.two_of_four(net) if sparse else net, place / "net" / "model.onnx")
    model = Artifact(ONNX, digest_of(place / "net"), place / "net")
    facts = signature(model)
    builds = {}
    for name in names:
        source = model
        if "fp16" in name:
            (place / "half").mkdir()
            ConvertFp16(keep_io=True, probe=GeneratedSamples(facts, 4, 0, {}, {})).run(model, place / "half")
            source = Artifact(ONNX, digest_of(place / "half"), place / "half")
        into = place / f"step-{name}"
        into.mkdir()
        PackTensorrtBuild(shapes=shape_ranges(facts, {}, 8), sparse=sparse).run(source, into)
        builds[name] = Artifact(DEVICE_BUILD, digest_of(into), into)
    samples = GeneratedSamples(facts, 4, 0, {}, {})
    target = find_target("jetson-orin-nano-8gb")
    return pack(
        builds, place / "device", model="net", target=target, signature=facts, samples=samples, batch=1, threads=1
    )


def waiting(file: Path) -> int:
    """The number that somebody writes into a file, soon."""
    deadline = time.monotonic() + 20
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return int(file.read_text())


def alive(pid: int) -> bool:
    """Whether a process runs, and is not only waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
