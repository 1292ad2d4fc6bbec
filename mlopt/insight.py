"""What happens inside a model while it runs: time, operations and bytes by layer, memory over time, and this
machine's peaks. Values alone; none of them decides anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlopt.measurement import Grade

Arithmetic = Literal["fp32", "fp16", "bf16", "int8", "other"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One piece of work by the name that its runtime has for it, with the time that it takes of a query.

    `anchors` are names of nodes or of tensors of the ONNX file that it stands for, as far as the runtime tells.
    """

    name: str
    kind: str
    anchors: tuple[str, ...]
    arithmetic: Arithmetic
    seconds: float


@dataclass(frozen=True, slots=True)
class Profile:
    """What a runtime's profiler said of so many queries: kernels in the order in which they run, and the whole query.
    `method` says how many times became one."""

    kernels: tuple[Kernel, ...]
    seconds: float
    queries: int
    method: str


@dataclass(frozen=True, slots=True)
class Layer:
    """What a runtime computes in one go: `nodes` of the ONNX file, several where it fused them, with their `operators`;
    none where the runtime added the work by itself (another memory layout, say). `kernel` is its name for it.

    `operations` (a multiply and an add are two) and `bytes` (inputs, weights and outputs, each moved once; not what
    stays inside) are counted on the graph; None where a shape or an operator is not known.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    kernel: str
    arithmetic: Arithmetic
    seconds: float
    operations: int | None
    bytes: int | None


@dataclass(frozen=True, slots=True)
class Layers:
    """One query, layer by layer in the order in which they run, under the runtime's own profiler.

    `seconds` is the whole query under it, which takes longer than without. `silent` are nodes without any time: done
    when the model was loaded, or left out.
    """

    device: str
    grade: Grade
    runtime: str
    threads: int
    batch: int
    queries: int
    seconds: float
    layers: tuple[Layer, ...]
    silent: tuple[str, ...]
    method: str


@dataclass(frozen=True, slots=True)
class MemoryTrace:
    """Resident bytes of a fresh process, read from outside at `seconds` after its start. `marks` are the ends of its
    phases: imported, loaded, answered (the first query), done."""

    seconds: tuple[float, ...]
    resident: tuple[int, ...]
    marks: tuple[tuple[str, float], ...]
    device: str
    grade: Grade
    method: str


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The inside of one candidate; `why_not` says what is missing and why."""

    candidate: str
    layers: Layers | None
    memory: MemoryTrace | None
    why_not: str


@dataclass(frozen=True, slots=True)
class Peak:
    """The most of one kind that the machine showed: operations per second of matrix products in `fp32` and `int8`,
    bytes per second of copies in `memory` and `cache`. `by` is what reached it."""

    kind: Literal["fp32", "int8", "memory", "cache"]
    rate: float
    by: str
    method: str


@dataclass(frozen=True, slots=True)
class Peaks:
    """Measured once for a machine and number of threads, and kept in the store. `taken` is when."""

    device: str
    grade: Grade
    threads: int
    taken: str
    peaks: tuple[Peak, ...]

    def rate(self, kind: str) -> float | None:
        return next((peak.rate for peak in self.peaks if peak.kind == kind), None)


@dataclass(frozen=True, slots=True)
class Insight:
    """The insides of the baseline and of what ships. `peaks` is None where they could not be measured."""

    peaks: Peaks | None
    anatomies: tuple[Anatomy, ...]

    def of(self, candidate: str) -> Anatomy | None:
        return next((one for one in self.anatomies if one.candidate == candidate), None)
