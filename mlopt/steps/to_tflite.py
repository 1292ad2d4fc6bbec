"""A .tflite file, for LiteRT, of an ONNX model: quantized where that has pairs, float32 elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.tflite.wrapper import save_wrapped


@dataclass(frozen=True, slots=True)
class ToTflite:
    """Written here, node by node, with the schema that comes with LiteRT; no converter and no TensorFlow. Pictures are
    turned once, at the edge: users give and get what they gave and got before.

    The result is `model.tflite`, and beside it the one node `model.onnx` by which mlopt knows it. A node that the file
    cannot hold is named, and its candidate left out.
    """

    name: ClassVar[str] = "to-tflite"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "flatbuffers", "numpy", "onnx")

    def run(self, source: Artifact, into: Path) -> None:
        """Raises `UnsupportedModel`."""
        save_wrapped(source.main, into)
