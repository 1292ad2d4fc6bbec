"""HardSigmoid and HardSwish on integers: the gate is the very bytes of what it is computed from, read otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import attributes_of, drop_unread, readers_of, rewrite

_LEVELS: Final = 256
_LAST: Final = _LEVELS - 1
# As much longer a step may get, which rounding once where it was rounded twice makes good for.
_LONGER: Final = 1.05
_WHOLE: Final = 1e-3
_CLIPS_BYTES: Final = 12  # the opset from which Clip takes them


@dataclass(frozen=True, slots=True)
class FoldHardSwish:
    """In a quantized model, compute every HardSigmoid by reading integers with another scale.

    HardSigmoid(x) = max(0, min(1, alpha · x + beta)) is 0 below -beta / alpha. Where x is rounded to integers whose
    lowest stands for just that, saturation is the lower bound, and the gate is the same integers with alpha times the
    scale and no zero-point. What is left is to cut off where the gate is 1: a Clip of bytes, and not even that where x
    does not reach so far. The product of a HardSwish needs no more of x, whose step gets shorter by what lies below;
    a gate that is all that reads x gets a step as long as its own was.

    A HardSwish whose x does not reach down so far would lose by that. Its gate is requantized: quantizing x with scale
    1 / (256 · alpha) and zero point 256 · beta saturates to the gate, read again with scale 1 / 256. A LeakyRelu of
    slope 1 stands between, for which ONNX Runtime looks bytes up in a table (QLinearLeakyRelu). Only where the gate
    multiplies the very tensor that it was computed from: other gates have narrow ranges, which deserve a scale of
    their own. A model without any comes out as it went in.
    """

    name: ClassVar[str] = "fold-hard-swish"
    version: ClassVar[int] = 3
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, source: Artifact, into: Path) -> None:
        rewrite(source.main, into / "model.onnx", _fold)


@dataclass(frozen=True, slots=True)
class _Gate:
    """A HardSigmoid that reads integers and is rounded to some: `rounds` is the QuantizeLinear that makes what it
    reads, `reads` all DequantizeLinear behind that, `quantize` and `dequantizes` the same behind the gate. `product`
    multiplies the gate by what it was computed from; None where nothing else reads that."""

    node: Any
    rounds: Any
    reads: tuple[Any, ...]
    quantize: Any
    dequantizes: tuple[Any, ...]
    product: Any


@dataclass(frozen=True, slots=True)
class _Grid:
    """Integers of NumPy's type `kind`, whose `lowest` is where the gate is 0. x is 0 `below` steps of `scale` above it,
    the gate 1 `open_at` steps of `gate`, which may be more than there are."""

    kind: Any
    lowest: int
    below: int
    open_at: int
    scale: float
    gate: float


def _fold(model: Any) -> bool:
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    clips = any(entry.domain in ("", "ai.onnx") and entry.version >= _CLIPS_BYTES for entry in model.opset_import)
    gone: list[Any] = []
    folded = False
    for node in [node for node in graph.node if node.op_type == "HardSigmoid"]:
        gate = _gate(node, makers, readers) if clips else None
        if gate and (grid := _grid(gate, constants)):
            gone += _read_otherwise(graph, gate, grid)
            folded = True
        elif pair := _pair(node, makers, readers):
            folded |= _requantize(graph, node, *pair)
    if folded:
        _without(graph, gone)
    return folded


def _gate(node: Any, makers: dict[str, Any], readers: dict[str, list[Any]]) -> _Gate | None:
    """None where what the gate reads is rounded for somebody else too, or its result not rounded alone."""
    read = makers.get(node.input[0])
    rounds = read and read.op_type == "DequantizeLinear" and makers.get(read.input[0])
    behind = readers.get(node.output[0], [])
    if not rounds or rounds.op_type != "QuantizeLinear" or len(behind) != 1:
        return None
    if behind[0] is None or behind[0].op_type != "QuantizeLinear":
        return None
    reads, dequantizes = (readers.get(one.output[0], []) for one in (rounds, behind[0]))
    if not dequantizes or any(one is None or one.op_type != "DequantizeLinear" for one in (*reads, *dequantizes)):
        return None
    pairs = ((rounds, reads), (behind[0], dequantizes))
    if any(list(one.input[1:]) != list(made.input[1:]) for made, some in pairs for one in some):
        return None  # it is read with another grid than it was rounded to
    gated = {one.output[0] for one in dequantizes}
    others = [one for each in reads for one in readers.get(each.output[0], []) if one is not node]
    if len(others) > 1 or any(one is None or one.op_type != "Mul" or gated.isdisjoint(one.input) for one in others):
        return None
    return _Gate(node, rounds, tuple(reads), behind[0], tuple(dequantizes), others[0] if others else None)


def _grid(gate: _Gate, constants: dict[str, Any]) -> _Grid | None:
    """The integers that both x and its gate can be; None where they would be coarser than they are, or no integer 1."""
    import numpy as np
    from onnx import numpy_helper

    names = [name for one in (gate.rounds, gate.quantize) for name in one.input[1:]]
    if len(names) < 4 or not constants.keys() >= {*names}:
        return None
    scale, zero, own, own_zero = (numpy_helper.to_array(constants[name]) for name in names)
    said = {"alpha": 0.2, "beta": 0.5} | attributes_of(gate.node)
    alpha, beta = said["alpha"], said["beta"]
    bytes_both = zero.dtype in (np.uint8, np.int8) and zero.dtype == own_zero.dtype and scale.dtype == np.float32
    if not bytes_both or scale.size != 1 or own.size != 1 or alpha <= 0 or not 0 < beta < 1:
        return None
    lowest, shut = int(np.iinfo(zero.dtype).min), beta / alpha
    high = (lowest + _LAST - int(zero.item())) * float(scale.item())
    if not gate.product:
        high = min(high, (1 - beta) / alpha)  # nobody sees what lies above
    below = int(_LAST * shut / (high + shut) + _WHOLE)
    step, reach = (scale, shut) if gate.product else (own, beta)  # of x, or of the gate itself
    open_at = below / beta
    on_grid = open_at >= _LAST or abs(open_at - round(open_at)) < _WHOLE
    if not on_grid or reach > below * _LONGER * float(step.item()):
        return None
    return _Grid(zero.dtype.type, lowest, below, round(open_at), shut / below, beta / below)


def _read_otherwise(graph: Any, gate: _Gate, grid: _Grid) -> list[Any]:
    """Gives the gate that grid, and returns the nodes that are to go for it."""
    import numpy as np
    from onnx import numpy_helper

    def constant(part: str, value: Any) -> str:
        name = f"{gate.node.name or gate.node.output[0]}_folded_{part}"
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    read = constant("scale", np.float32(grid.scale)), constant("zero_point", grid.kind(grid.lowest + grid.below))
    for one in (gate.rounds, *gate.reads):
        one.input[1], one.input[2] = read
    read = constant("gate_scale", np.float32(grid.gate)), constant("gate_zero_point", grid.kind(grid.lowest))
    for one in gate.dequantizes:
        one.input[1], one.input[2] = read
    if grid.open_at < _LAST:
        most = constant("gate_most", grid.kind(grid.lowest + grid.open_at))
        gate.node.op_type = "Clip"
        del gate.node.attribute[:], gate.node.input[:]
        gate.node.input.extend([gate.rounds.output[0], "", most])
        gate.node.output[0] = gate.quantize.output[0]
        return [gate.quantize]
    for one in gate.dequantizes:
        one.input[0] = gate.rounds.output[0]
    return [gate.node, gate.quantize]


def _without(graph: Any, gone: list[Any]) -> None:
    """Takes those nodes out of the graph, and what is then read by nobody."""
    for node in gone:
        graph.node.remove(node)
    readers = readers_of(graph)
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] not in readers]:
        graph.node.remove(node)
    drop_unread(graph)


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
