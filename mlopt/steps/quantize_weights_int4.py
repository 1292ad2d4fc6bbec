"""int4 weights: matrix products keep blocks of four-bit weights with one scale each (MatMulNBits)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import UnsupportedModel
from mlopt.steps.quantizer import prepared, saved


@dataclass(frozen=True, slots=True)
class QuantizeWeightsInt4:
    """Round-to-nearest four-bit weights in blocks along K; activations stay in floating point.

    A step for size: at sequence length 128 it gains 1.0 to 1.6 times in speed on a CPU (measured, ONNX
    Runtime 1.31). `accuracy_level` 4 lets the kernel quantize activations to int8 on the fly, 0 does not.
    """

    name: ClassVar[str] = "quantize-weights-int4"
    version: ClassVar[int] = 2
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
            _gemm_to_matmul(model.graph)
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


def _gemm_to_matmul(graph: Any) -> None:
    """The block kernels are MatMul's: Gemm(x, W, b) with a constant W becomes MatMul(x, W') and Add(b)."""
    import numpy as np
    from onnx import helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    for position, node in reversed(list(enumerate(graph.node))):
        scalars = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        plain = scalars.get("alpha", 1.0) == scalars.get("beta", 1.0) == 1.0 and not scalars.get("transA", 0)
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain:
            continue
        array = numpy_helper.to_array(weights[node.input[1]])
        name = f"{node.input[1]}_as_matmul"
        turned = np.ascontiguousarray(array.T if scalars.get("transB", 0) else array)
        if name not in weights:
            weights[name] = numpy_helper.from_array(turned, name)
            graph.initializer.append(weights[name])
        biased = len(node.input) == 3 and node.input[2]
        product = f"{node.output[0]}_product" if biased else node.output[0]
        parts = [helper.make_node("MatMul", [node.input[0], name], [product], name=node.name)]
        if biased:
            parts.append(helper.make_node("Add", [product, node.input[2]], list(node.output), name=f"{node.name}_bias"))
        graph.node.remove(node)
        for offset, part in enumerate(parts):
            graph.node.insert(position + offset, part)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _refuse_unchanged(model: Any, source: Artifact) -> None:
    """A variant that is the model itself under another name would only mislead."""
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise UnsupportedModel(
            "No matrix product has constant weights, so there is nothing to store in four bits.", where=str(source.main)
        )
