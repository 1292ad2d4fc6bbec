"""Keras to ONNX: .keras archives and HDF5 files that hold a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.sniff import KERAS
from mlopt.steps.exporting import TF2ONNX_OPSET, export


@dataclass(frozen=True, slots=True)
class OnnxFromKeras:
    """Export a Keras model through tf2onnx. The input contract stays as it is: channels last, names as in Keras.

    `opset` is the newest that the target's runtime supports. `inputs` describes inputs, by name, as
    `InputSpec.parse` reads it. Raises `ModelUnreadable`, `UnsupportedModel`, `ExportFailed`.
    """

    name: ClassVar[str] = "onnx-from-keras"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({KERAS})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("keras", "onnx", "onnxruntime", "tensorflow", "tf2onnx")

    opset: int = TF2ONNX_OPSET
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        opset = min(self.opset, TF2ONNX_OPSET)
        export("keras", source, into, opset=opset, inputs=self.inputs, limits=self.limits)
