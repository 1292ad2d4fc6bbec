"""Zero-points made good for before a model runs: values shifted onto a grid that begins at 0, biases by the same."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import attributes_of, drop_unread, names_in, readers_of, rewrite

if TYPE_CHECKING:
    import numpy as np

_MATRIX: Final = ("MatMul", "Gemm")  # a convolution's padding would have to be shifted too
_PLAIN: Final = {"alpha": 1.0, "beta": 1.0, "transA": 0}  # of a Gemm
_LOWEST: Final = {"int8": -128, "uint8": 0}


@dataclass(frozen=True, slots=True)
class ShiftZeroPoints:
    """Where matrix products alone read a pair whose integers are signed, or whose zero-point is not 0: add to the value
    what makes it both, and take what that adds to the products out of their biases.

    A product with a zero-point takes longer, and one of signed integers does where instructions multiply unsigned by
    signed ones (AVX-512 VNNI). The addition costs nothing: OpenVINO makes it a part of the rounding. Answers stay as
    they were, but for values that lie halfway between two integers.
    """

    name: ClassVar[str] = "shift-zero-points"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, source: Artifact, into: Path) -> None:
        rewrite(source.main, into / "model.onnx", lambda model: _shift(model.graph))


@dataclass(frozen=True, slots=True)
class _Shifted:
    """A pair, how much is to be added before it, and the products that read it: each with the sums of the weights that
    make its outputs."""

    quantize: Any
    dequantize: Any
    by: float
    products: tuple[tuple[Any, np.ndarray], ...]


def _shift(graph: Any) -> bool:
    """Whether there was any to shift."""
    import numpy as np
    from onnx import helper

    constants, readers = _Constants(graph), readers_of(graph)
    added: dict[str, list[Any]] = {}  # by what a node writes, what stands before it or, a product's, behind it
    for one in list(_found(graph, constants, readers)):
        name = constants.free(f"{one.quantize.output[0]}_shifted")
        terms = [one.quantize.input[0], constants.add(np.array(one.by, np.float32), f"{name}_by")]
        added[one.quantize.output[0]] = [helper.make_node("Add", terms, [name], name=name), one.quantize]
        one.quantize.input[0] = name
        one.quantize.input[2] = one.dequantize.input[2] = constants.add(np.array(0, np.uint8), f"{name}_zero")
        for product, sums in one.products:
            behind = _lessened(product, sums * one.by, constants, readers)
            added[product.output[0]] = [product, *behind]
    if added:
        for value in [value for value in graph.value_info if value.name in added]:
            graph.value_info.remove(value)  # signed integers there are unsigned now
        nodes = [each for node in graph.node for each in added.get(node.output[0], [node])]
        del graph.node[:]
        graph.node.extend(nodes)
        drop_unread(graph)
    return bool(added)


class _Constants:
    """A graph's, and those that are added to it. What a caller may replace is none."""

    def __init__(self, graph: Any) -> None:
        self._graph, self._taken = graph, names_in(graph)
        given = {value.name for value in graph.input}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        self._stored = {
            node.output[0]: node
            for node in graph.node
            if node.op_type == "DequantizeLinear" and self._tensors.keys() >= {*node.input}
        }

    def free(self, wanted: str) -> str:
        """That name, or the first with a number that nothing has yet; taken from now on."""
        names = itertools.chain([wanted], (f"{wanted}_{number}" for number in itertools.count(1)))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name

    def add(self, value: np.ndarray, wanted: str) -> str:
        from onnx import numpy_helper

        name = self.free(wanted)
        self._tensors[name] = numpy_helper.from_array(value, name)
        self._graph.initializer.append(self._tensors[name])
        return name

    def value(self, name: str) -> np.ndarray | None:
        """Dequantized where it is stored as integers; None of what is no constant, or has scales by blocks."""
        import numpy as np
        from onnx import numpy_helper

        if name not in self._stored:
            return numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None
        node = self._stored[name]
        codes, scale, *rest = (numpy_helper.to_array(self._tensors[each]) for each in node.input)
        if scale.ndim > 1:
            return None
        sides = [1] * codes.ndim
        if scale.size > 1:
            sides[attributes_of(node).get("axis", 1)] = -1
        zero = rest[0].astype(np.float64) if rest else np.zeros(scale.shape)
        values: np.ndarray = (codes - zero.reshape(sides)) * scale.astype(np.float64).reshape(sides)
        return values


def _found(graph: Any, constants: _Constants, readers: Mapping[str, Sequence[Any]]) -> Iterator[_Shifted]:
    for quantize in graph.node:
        following = readers.get(quantize.output[0], []) if quantize.op_type == "QuantizeLinear" else []
        if len(following) != 1 or following[0] is None or following[0].op_type != "DequantizeLinear":
            continue
        mirrored = list(quantize.input[1:]) == list(following[0].input[1:])
        by, made = _by(quantize, constants) if mirrored else None, following[0].output[0]
        products = [(node, _sums(node, made, constants)) for node in readers.get(made, [])]
        known = tuple((node, sums) for node, sums in products if sums is not None)
        if by is not None and known and len(known) == len(products):
            yield _Shifted(quantize, following[0], by, known)


def _by(quantize: Any, constants: _Constants) -> float | None:
    """What zero is to become; None where it stays the lowest integer, where channels have scales of their own, or in
    another type than float32."""
    import numpy as np

    scale, zero = (constants.value(name) for name in quantize.input[1:]) if len(quantize.input) == 3 else (None, None)
    if scale is None or zero is None or scale.size != 1 or scale.dtype != np.float32 or zero.dtype.name not in _LOWEST:
        return None
    steps = int(zero.item()) - _LOWEST[zero.dtype.name]
    # As it will be stored, so that a bias takes out just what is added.
    return float(np.float32(scale.item() * steps)) if steps else None


def _sums(node: Any, read: str, constants: _Constants) -> np.ndarray | None:
    """Of the weights that make each of a product's outputs; None where it is none of `read` and a constant matrix."""
    import numpy as np

    if node is None or node.op_type not in _MATRIX or read != node.input[0] or read in node.input[1:]:
        return None
    said = attributes_of(node)
    weights, biases = constants.value(node.input[1]), [constants.value(name) for name in node.input[2:] if name]
    plain = all(said.get(name, value) == value for name, value in _PLAIN.items())
    if weights is None or weights.ndim != 2 or not plain or any(bias is None for bias in biases):
        return None
    sums: np.ndarray = weights.astype(np.float64).sum(1 if said.get("transB", 0) else 0)
    return sums


def _lessened(
    product: Any, by: np.ndarray, constants: _Constants, readers: Mapping[str, Sequence[Any]]
) -> tuple[Any, ...]:
    """Take `by` out of a product's bias; where it has none of its size, the addition that is to stand behind it."""
    import numpy as np
    from onnx import helper

    name = f"{product.output[0]}_less"
    if product.op_type == "Gemm":
        bias = constants.value(product.input[2]) if len(product.input) > 2 else None
        del product.input[2:]
        product.input.append(constants.add(((0 if bias is None else bias) - by).astype(np.float32), name))
        return ()
    following = readers.get(product.output[0], [])
    adding = following[0] if len(following) == 1 and following[0] and following[0].op_type == "Add" else None
    for place, read in enumerate(adding.input if adding else ()):
        bias = constants.value(read)
        if adding and bias is not None and bias.shape == by.shape:
            adding.input[place] = constants.add((bias - by).astype(np.float32), name)
            return ()
    made, product.output[0] = product.output[0], constants.free(f"{product.output[0]}_product")
    terms = [product.output[0], constants.add((-by).astype(np.float32), name)]
    return (helper.make_node("Add", terms, [made], name=constants.free(f"{made}_lessened")),)
