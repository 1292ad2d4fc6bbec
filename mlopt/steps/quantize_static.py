"""Static quantization: int8 weights and activations, with ranges observed on calibration samples (static PTQ)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.steps.qdq import Qdq, Scheme
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.ranges import Calibrator

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class QuantizeStatic:
    """Insert QuantizeLinear/DequantizeLinear pairs (QDQ) around the operators that have int8 kernels.

    `scheme` and `op_types` as in `Qdq`.
    """

    name: ClassVar[str] = "quantize-static"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    calibration: Samples
    scheme: Scheme = "u8s8"
    per_channel: bool = True
    calibrator: Calibrator = "min-max"
    percentile: float = 99.999
    op_types: tuple[str, ...] = ()

    def run(self, source: Artifact, into: Path) -> None:
        qdq = Qdq(self.scheme, self.per_channel, self.op_types)
        with prepared(source, optimize=True) as model:
            ranges = qdq.observe(model, self.calibration, into, self.calibrator, self.percentile)
            result = into / "model.onnx"
            qdq.write(model, ranges, result)
            saved(result)
