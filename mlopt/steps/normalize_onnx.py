"""ONNX as it comes to ONNX as later steps expect it: named nodes, a true batch dimension, a known opset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.steps.exporting import export


@dataclass(frozen=True, slots=True)
class NormalizeOnnx:
    """Make the batch dynamic where that is seen to be right, name the nodes, drop notes and stale shapes.

    The opset is raised to `minimum_opset` (below 13 there is no per-channel quantization) and lowered to `opset`,
    the newest of the target's runtime; otherwise it stays. Names, inputs and outputs stay. External weights stay
    in their files. Raises `ModelUnreadable`, `UnsupportedModel`.
    """

    name: ClassVar[str] = "normalize-onnx"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    opset: int = 18
    minimum_opset: int = 13
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        export(
            "onnx",
            source,
            into,
            opset=self.opset,
            minimum_opset=self.minimum_opset,
            inputs=self.inputs,
            limits=self.limits,
        )
