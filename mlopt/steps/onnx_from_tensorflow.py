"""TensorFlow's formats to ONNX, all through tf2onnx: SavedModel folders, Keras files, TFLite files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits, Program
from mlopt.sniff import KERAS, SAVED_MODEL, TFLITE
from mlopt.steps.exporting import TF2ONNX_OPSET, export


@dataclass(frozen=True, slots=True)
class _ThroughTf2Onnx:
    """The input contract stays as it is: names, dtypes, channels last.

    `opset` is the newest that the target's runtime supports. `inputs` describes inputs, by name, as
    `InputSpec.parse` reads it. Raises `ModelUnreadable`, `UnsupportedModel`, `ExportFailed`.
    """

    program: ClassVar[Program]
    version: ClassVar[int] = 1
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("keras", "onnx", "onnxruntime", "tensorflow", "tf2onnx")

    opset: int = TF2ONNX_OPSET
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        opset = min(self.opset, TF2ONNX_OPSET)
        export(self.program, source, into, opset=opset, inputs=self.inputs, limits=self.limits)


@dataclass(frozen=True, slots=True)
class OnnxFromTensorFlow(_ThroughTf2Onnx):
    """Export the serving signature of a SavedModel, those of TensorFlow 1 included."""

    name: ClassVar[str] = "onnx-from-tensorflow"
    accepts: ClassVar[frozenset[Format]] = frozenset({SAVED_MODEL})
    program: ClassVar[Program] = "tensorflow"


@dataclass(frozen=True, slots=True)
class OnnxFromKeras(_ThroughTf2Onnx):
    """Export a `.keras` archive, or an HDF5 file that holds a whole model."""

    name: ClassVar[str] = "onnx-from-keras"
    accepts: ClassVar[frozenset[Format]] = frozenset({KERAS})
    program: ClassVar[Program] = "keras"


@dataclass(frozen=True, slots=True)
class OnnxFromTFLite(_ThroughTf2Onnx):
    """Export a TFLite model: floating point as it is, a quantized one with its quantization (QDQ)."""

    name: ClassVar[str] = "onnx-from-tflite"
    accepts: ClassVar[frozenset[Format]] = frozenset({TFLITE})
    program: ClassVar[Program] = "tflite"
