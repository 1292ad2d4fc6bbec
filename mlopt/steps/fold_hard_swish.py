"""HardSwish on integers: its gate is a requantization that saturates, so no float is needed for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import attributes_of, readers_of, rewrite

_LEVELS: Final = 256


@dataclass(frozen=True, slots=True)
class FoldHardSwish:
    """In a quantized model, compute the HardSigmoid of every HardSwish by reading integers with another scale.

    HardSigmoid(x) = max(0, min(1, alpha · x + beta)) is what quantizing x with scale 1 / (256 · alpha) and zero point
    256 · beta saturates to, read again with scale 1 / 256. A LeakyRelu of slope 1 stands between, for which ONNX
    Runtime looks bytes up in a table (QLinearLeakyRelu). Only where the gate multiplies the very tensor that it was
    computed from: gates of squeeze-and-excite have narrow ranges, which deserve a scale of their own. A model without
    any comes out as it went in.
    """

    name: ClassVar[str] = "fold-hard-swish"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, source: Artifact, into: Path) -> None:
        rewrite(source.main, into / "model.onnx", lambda model: _fold(model.graph))


def _fold(graph: Any) -> bool:
    makers = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    folded = False
    for node in graph.node:
        if node.op_type == "HardSigmoid" and (pair := _pair(node, makers, readers)):
            folded |= _requantize(graph, node, *pair)
    return folded


def _pair(gate: Any, makers: dict[str, Any], readers: dict[str, list[Any]]) -> tuple[Any, Any] | None:
    """The QuantizeLinear and DequantizeLinear behind a gate that multiplies its own input; None for any other."""
    chain = [gate]
    for kind in ("QuantizeLinear", "DequantizeLinear", "Mul"):
        following = readers.get(chain[-1].output[0], [])
        if len(following) != 1 or following[0] is None or following[0].op_type != kind:
            return None
        chain.append(following[0])
    _, quantize, dequantize, product = chain
    others = [name for name in product.input if name != dequantize.output[0]]
    sources = [makers.get(name) for name in (gate.input[0], *others)]
    if len(sources) != 2 or any(maker is None or maker.op_type != "DequantizeLinear" for maker in sources):
        return None
    first, second = sources
    assert first is not None
    assert second is not None
    return (quantize, dequantize) if list(first.input) == list(second.input) else None


def _requantize(graph: Any, gate: Any, quantize: Any, dequantize: Any) -> bool:
    import numpy as np
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    said = attributes_of(gate)
    if len(quantize.input) < 3 or quantize.input[2] not in constants:
        return False
    dtype = numpy_helper.to_array(constants[quantize.input[2]]).dtype
    alpha, middle = said.get("alpha", 0.2), said.get("beta", 0.5) * _LEVELS
    if dtype not in (np.uint8, np.int8) or alpha <= 0 or not 0 <= middle < _LEVELS or middle % 1:
        return False
    lowest = int(np.iinfo(dtype).min)
    for node, scale, zero in (
        (quantize, 1 / (_LEVELS * alpha), int(middle) + lowest),
        (dequantize, 1 / _LEVELS, lowest),
    ):
        names = [f"{node.name or node.output[0]}_{part}" for part in ("gate_scale", "gate_zero_point")]
        graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
        graph.initializer.append(numpy_helper.from_array(np.array(zero, dtype), names[1]))
        node.input[1], node.input[2] = names
    gate.op_type = "LeakyRelu"
    del gate.attribute[:]
    gate.attribute.append(helper.make_attribute("alpha", 1.0))
    return True
