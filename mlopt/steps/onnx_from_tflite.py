"""TFLite to ONNX: floating point as it is, quantized models with their quantization (QDQ)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.sniff import TFLITE
from mlopt.steps.exporting import TF2ONNX_OPSET, export


@dataclass(frozen=True, slots=True)
class OnnxFromTFLite:
    """Export a TFLite model through tf2onnx. Its layout (channels last), names and dtypes stay.

    `opset` is the newest that the target's runtime supports. `inputs` describes inputs, by name, as
    `InputSpec.parse` reads it. Raises `ModelUnreadable`, `UnsupportedModel`, `ExportFailed`.
    """

    name: ClassVar[str] = "onnx-from-tflite"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({TFLITE})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("keras", "onnx", "onnxruntime", "tensorflow", "tf2onnx")

    opset: int = TF2ONNX_OPSET
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        opset = min(self.opset, TF2ONNX_OPSET)
        export("tflite", source, into, opset=opset, inputs=self.inputs, limits=self.limits)
