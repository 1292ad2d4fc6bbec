"""Dynamic quantization: int8 weights now, activations' ranges at run time; needs no samples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.precision.rewrites import gemm_to_matmul
from mlopt.repair.repair import paired_grids
from mlopt.steps.qdq import Scheme, overrides
from mlopt.steps.quantizer import prepared, saved


@dataclass(frozen=True, slots=True)
class QuantizeDynamic:
    """Quantize the weights of matrix products to int8, per channel; activations are quantized as they come.

    Convolutions are left alone: their dynamic form (ConvInteger) is about three times slower than fp32 on
    CPUs (measured on ResNet-50, ONNX Runtime 1.31). `op_types` is explicit because quantizing the inputs of
    the opset-23 Attention operator gives an invalid model. Activations are unsigned and weights signed; a `scheme` that
    is paired keeps sums of two products inside 16 bits (`repair/pairs.py`), and the others make no difference.
    """

    name: ClassVar[str] = "quantize-dynamic"
    version: ClassVar[int] = 4
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    op_types: tuple[str, ...] = ("MatMul", "Gemm")
    per_channel: bool = True
    scheme: Scheme = "u8s8"

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=False) as model:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            result, paired = into / "model.onnx", self.scheme == "u8s8-paired"
            if "Gemm" in self.op_types:
                gemm_to_matmul(model.graph)  # as the quantizer does itself, but after it has checked the grids
            grids = paired_grids(model.graph, per_channel=self.per_channel) if paired else {}
            # It checks those of nodes that it leaves as they are, too.
            read = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
            grids = {name: grid for name, grid in grids.items() if name in read}
            quantize_dynamic(
                model,
                result,
                op_types_to_quantize=list(self.op_types),
                per_channel=self.per_channel,
                reduce_range=paired,
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": 1, "TensorQuantOverrides": overrides(grids)},
            )
            saved(result)
            _refuse_unchanged(result)


def _refuse_unchanged(result: Path) -> None:
    """A variant that is the model itself under another name would only mislead."""
    import onnx

    graph = onnx.load(str(result), load_external_data=False).graph
    if not any(node.op_type in ("MatMulInteger", "DynamicQuantizeLinear") for node in graph.node):
        raise UnsupportedModel("No matrix product has constant weights, so there is nothing to quantize.")
