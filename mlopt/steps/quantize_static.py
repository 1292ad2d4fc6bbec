"""Static quantization: int8 weights and activations, with ranges observed on calibration samples (static PTQ)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.repairing import Weights, repaired


@dataclass(frozen=True, slots=True)
class QuantizeStatic(Calibrated):
    """Insert QuantizeLinear/DequantizeLinear pairs (QDQ) around the operators that have int8 kernels.

    With `repair`, weights are rounded, scaled and biases corrected so that every layer makes good for the errors
    before it, on the same samples (`repair/repair.py`).
    """

    name: ClassVar[str] = "quantize-static"
    version: ClassVar[int] = 7
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    repair: bool = False

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=True) as model:
            ranges = self.qdq.observe(model, self.calibration, into, self.how)
            result = into / "model.onnx"
            weights = repaired(self.qdq, model, ranges, self.calibration) if self.repair else Weights(model, {})
            self.qdq.write(weights.model, ranges, result, grids=weights.grids)
            saved(result, notes=self.qdq.notes(model.graph))
