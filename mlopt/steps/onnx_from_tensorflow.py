"""TensorFlow to ONNX: SavedModel folders, those of TensorFlow 1 included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.sniff import SAVED_MODEL
from mlopt.steps.exporting import TF2ONNX_OPSET, export


@dataclass(frozen=True, slots=True)
class OnnxFromTensorFlow:
    """Export the serving signature of a SavedModel through tf2onnx; its names and channels-last layout stay.

    `opset` is the newest that the target's runtime supports. `inputs` describes inputs, by name, as
    `InputSpec.parse` reads it. Raises `ModelUnreadable`, `UnsupportedModel`, `ExportFailed`.
    """

    name: ClassVar[str] = "onnx-from-tensorflow"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({SAVED_MODEL})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("keras", "onnx", "onnxruntime", "tensorflow", "tf2onnx")

    opset: int = TF2ONNX_OPSET
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        opset = min(self.opset, TF2ONNX_OPSET)
        export("tensorflow", source, into, opset=opset, inputs=self.inputs, limits=self.limits)
