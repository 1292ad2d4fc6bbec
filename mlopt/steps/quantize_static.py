"""Static quantization: int8 weights and activations, with ranges observed on calibration samples (static PTQ)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.step import Make
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.observe_ranges import observed
from mlopt.steps.quantizer import prepared, saved, unshared
from mlopt.steps.repair_weights import wholly_mended
from mlopt.steps.repairing import Weights, nearer


@dataclass(frozen=True, slots=True)
class QuantizeStatic(Calibrated):
    """Insert QuantizeLinear/DequantizeLinear pairs (QDQ) around the operators that have int8 kernels.

    With `repair`, weights are rounded, scaled and biases corrected so that every layer makes good for the errors
    before it, on the same samples (`repair/repair.py`).
    """

    name: ClassVar[str] = "quantize-static"
    version: ClassVar[int] = 10
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    repair: bool = False

    def run(self, source: Artifact, into: Path) -> None:
        with unshared() as make:
            self.compose(source, into, make)

    def compose(self, source: Artifact, into: Path, make: Make) -> None:
        with prepared(source, optimize=True) as model:
            ranges, weights = observed(self, source, make), Weights(model, {})
            result = into / "model.onnx"
            if self.repair:
                weights = nearer(self.qdq, ranges, self.calibration, weights, wholly_mended(self, source, make))
            self.qdq.write(weights.model, ranges, result, grids=weights.grids)
            saved(result, notes=self.qdq.notes(model.graph))
