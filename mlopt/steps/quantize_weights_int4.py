"""int4 weights: matrix products keep blocks of four-bit weights with one scale each (MatMulNBits)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.precision.rewrites import gemm_to_matmul
from mlopt.steps.quantizer import prepared, saved


@dataclass(frozen=True, slots=True)
class QuantizeWeightsInt4:
    """Round-to-nearest four-bit weights in blocks along K; activations stay in floating point.

    A step for size: at sequence length 128 it gains 1.0 to 1.6 times in speed on a CPU (measured, ONNX
    Runtime 1.31). `accuracy_level` 4 lets the kernel quantize activations to int8 on the fly, 0 does not.
    """

    name: ClassVar[str] = "quantize-weights-int4"
    version: ClassVar[int] = 3
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    block_size: int = 32
    symmetric: bool = True
    accuracy_level: int = 4

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=False) as model:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            logging.getLogger("onnxruntime.quantization.matmul_nbits_quantizer").setLevel(logging.WARNING)
            gemm_to_matmul(model.graph)
            quantizer = MatMulNBitsQuantizer(
                model,
                block_size=self.block_size,
                is_symmetric=self.symmetric,
                accuracy_level=self.accuracy_level,
            )
            quantizer.process()
            _refuse_unchanged(quantizer.model.model, source)
            result = into / "model.onnx"
            quantizer.model.save_model_to_file(str(result), use_external_data_format=False)
            saved(result)


def _refuse_unchanged(model: Any, source: Artifact) -> None:
    """A variant that is the model itself under another name would only mislead."""
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise UnsupportedModel(
            "No matrix product has constant weights, so there is nothing to store in four bits.", where=str(source.main)
        )
