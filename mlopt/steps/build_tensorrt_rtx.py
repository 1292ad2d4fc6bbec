"""An engine for NVIDIA GPUs of named compute capabilities, made by TensorRT for RTX where there is no GPU."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ENGINE, ONNX, Artifact, Format
from mlopt.convert.process import Limits, convert
from mlopt.engines import RTX_CAPABILITIES, ShapeRange


@dataclass(frozen=True, slots=True)
class BuildTensorrtRtx:
    """Types are those of the ONNX model; several compute capabilities share one engine. The compiler runs in a process
    of its own, whose environment makes its bytes the same every time (`convert/process.py`). Nothing loads the result
    here: an engine is native code. With `fp4`, weights in blocks that `quantize-weight-blocks` wrote as fp4 reach the
    compiler as that.
    """

    name: ClassVar[str] = "build-tensorrt-rtx"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ENGINE
    requires: ClassVar[tuple[str, ...]] = ("tensorrt-rtx",)

    compute_capabilities: tuple[str, ...]
    max_batch: int = 8
    shapes: tuple[ShapeRange, ...] = ()
    fp4: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a compute capability that the compiler does not know, or none."""
        unknown = sorted(set(self.compute_capabilities) - set(RTX_CAPABILITIES))
        if unknown or not self.compute_capabilities:
            raise ValueError(f"compute-capabilities are some of {', '.join(RTX_CAPABILITIES)}, not {unknown}")
        if self.max_batch < 1:
            raise ValueError("max-batch is less than 1")

    def run(self, source: Artifact, into: Path) -> None:
        shapes = [dataclasses.asdict(shape) for shape in self.shapes]
        answer = convert(
            "tensorrt_rtx",
            "build",
            self.limits,
            model=str(source.main),
            into=str(into / "model.engine"),
            compute_capabilities=self.compute_capabilities,
            shapes=shapes,
            fp4=self.fp4,
        )
        facts = {
            "compiler": f"TensorRT for RTX {answer['version']}",
            "compute-capabilities": list(self.compute_capabilities),
            "shapes": shapes,
            "made-from": f"sha256:{source.digest}",
            "state": "built, not run",
        }
        (into / "engine.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
