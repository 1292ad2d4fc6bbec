"""The work in a graph, counted: operations of each node, and the bytes that a group of nodes must move."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self

from mlopt.onnx_file import attributes_of, bytes_of, inferred, load_graph, readers_of, shapes_in

Shape = tuple[int, ...]

# Operations for one element of the output; functions like exp or erf count as one.
_EACH: Final[Mapping[str, int]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Neg", "Abs", "Sqrt", "Reciprocal"), 1),
    **dict.fromkeys(("Exp", "Log", "Erf", "Sin", "Cos", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "PRelu", "Elu"), 1),
    **dict.fromkeys(("Ceil", "Floor", "Round", "Sign", "Not", "And", "Or", "Equal", "Less", "Greater", "Where"), 1),
    **dict.fromkeys(("LessOrEqual", "GreaterOrEqual", "Softplus", "Sum", "Mean", "ThresholdedRelu", "Selu"), 1),
    **dict.fromkeys(("Clip", "BatchNormalization", "HardSigmoid"), 2),
    **dict.fromkeys(("HardSwish", "Gelu", "Mish"), 4),
    **dict.fromkeys(("Softmax", "LogSoftmax"), 5),
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization"), 8),
    **dict.fromkeys(("SkipLayerNormalization", "LRN"), 9),
    # What moves or converts values computes nothing.
    **dict.fromkeys(("Identity", "Dropout", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"), 0),
    **dict.fromkeys(("Concat", "Split", "Slice", "Gather", "GatherElements", "GatherND", "Expand", "Tile", "Pad"), 0),
    **dict.fromkeys(("Shape", "Size", "Constant", "ConstantOfShape", "Range", "Resize", "Upsample", "OneHot"), 0),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth", "QuantizeLinear", "DequantizeLinear", "ScatterND"), 0),
    **dict.fromkeys(("ScatterElements", "CastLike", "Trilu", "EyeLike", "DynamicQuantizeLinear"), 0),
}
_GATES: Final[Mapping[str, int]] = {"LSTM": 4, "GRU": 3, "RNN": 1}
# What reads of its first input only as much as it writes.
_PICKS: Final = {"Gather", "GatherElements", "GatherND", "Slice"}
_CONVERSIONS: Final = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Graph:
    """The nodes of an ONNX file, in its order, with what is known of its tensors for a query of some shapes."""

    nodes: tuple[Any, ...]
    known: Mapping[str, tuple[int, Shape]]
    readers: Mapping[str, list[Any]]
    weights: Collection[str]

    @classmethod
    def read(cls, model: Path, sizes: Mapping[str, Shape]) -> Self:
        """`sizes` are the shapes of the inputs. Raises `ModelUnreadable`."""
        loaded = load_graph(model)
        graph = inferred(loaded, sizes)
        weights = frozenset(tensor.name for tensor in graph.initializer)
        return cls(tuple(graph.node), shapes_in(graph), readers_of(graph), weights)

    @cached_property
    def makers(self) -> Mapping[str, int]:
        """The number of the node that makes a tensor."""
        return {name: number for number, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def named(self) -> Mapping[str, int]:
        return {self.label(number): number for number in range(len(self.nodes))}

    def label(self, number: int) -> str:
        """A node's name; what it makes, where it has none."""
        node = self.nodes[number]
        return str(node.name or next(iter(node.output), node.op_type))

    def operations(self, number: int) -> int | None:
        """Of one node; a multiply and an add are two. None where it cannot be said."""
        node = self.nodes[number]
        shapes = [self._shape(name) for name in node.input]
        made = self._shape(node.output[0]) if node.output else None
        if (each := _EACH.get(node.op_type)) is not None:
            return 0 if each == 0 else None if made is None else each * math.prod(made)
        if (count := _COUNTED.get(node.op_type)) is None or made is None or not shapes or shapes[0] is None:
            return None
        try:
            return count(attributes_of(node), shapes, made)
        except (IndexError, KeyError, ZeroDivisionError):  # it breaks the rules of its operator, and still runs
            return None

    def bytes(self, group: Collection[int], ran: Collection[int]) -> int | None:
        """What a fused group of nodes reads and writes, each tensor once. Conversions to and from int8 that the runtime
        did not run as such (`ran` are the nodes that it did) are no float values in memory."""
        inside = {name for number in group for name in self.nodes[number].output if name}
        moved: dict[str, int | None] = {}
        for number in sorted(group):
            node = self.nodes[number]
            for place, name in enumerate(node.input):
                if name and name not in inside:
                    stored = self._read_as(name, ran)
                    picked = place == 0 and node.op_type in _PICKS
                    moved[stored] = self._bytes(node.output[0] if picked else stored)
            for name in node.output:
                if name and any(self._outside(reader, group) for reader in self.readers.get(name, ())):
                    stored = self._written_as(name, ran)
                    moved[stored] = self._bytes(stored)
        sizes = list(moved.values())
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def _outside(self, reader: Any, group: Collection[int]) -> bool:
        return reader is None or self.makers.get(next(iter(reader.output), "")) not in group

    def _read_as(self, name: str, ran: Collection[int]) -> str:
        maker = self.makers.get(name)
        if maker is not None and maker not in ran and self.nodes[maker].op_type == "DequantizeLinear":
            return str(self.nodes[maker].input[0])
        return name

    def _written_as(self, name: str, ran: Collection[int]) -> str:
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0] is not None and readers[0].op_type == "QuantizeLinear":
            made = str(readers[0].output[0])
            return name if self.makers[made] in ran else made
        return name

    def _shape(self, name: str) -> Shape | None:
        return self.known[name][1] if name in self.known else None

    def _bytes(self, name: str) -> int | None:
        return bytes_of(*self.known[name]) if name in self.known else None


def is_conversion(node: Any) -> bool:
    return node.op_type in _CONVERSIONS


Counter = Callable[[Mapping[str, Any], list[Shape | None], Shape], int | None]


def _convolution(weights: int, *, transposed: bool = False) -> Counter:
    """Per output (per input, if transposed): one product for each weight of its filter; a bias is added once."""

    def count(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
        filters = shapes[weights] if len(shapes) > weights else None
        if filters is None or shapes[0] is None:
            return None
        places = math.prod(shapes[0] if transposed else made)
        biased = len(shapes) > 2 and weights == 1 and shapes[2] is not None
        return 2 * places * math.prod(filters[1:]) + (math.prod(made) if biased else 0)

    return count


def _product(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
    assert shapes[0]
    return 2 * math.prod(made) * shapes[0][-1]


def _gemm(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
    assert shapes[0] is not None
    biased = len(shapes) > 2 and shapes[2] is not None
    depth = shapes[0][0 if attributes.get("transA") else -1]
    return 2 * math.prod(made) * depth + (math.prod(made) if biased else 0)


def _pool(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
    return math.prod(made) * int(math.prod(attributes["kernel_shape"]))


def _reduction(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
    assert shapes[0] is not None
    return math.prod(shapes[0])


def _recurrent(gates: int) -> Counter:
    """The two products of each step; what the gates do with their results is little beside them."""

    def count(attributes: Mapping[str, Any], shapes: list[Shape | None], made: Shape) -> int | None:
        steps, weights = shapes[0], shapes[1]
        if steps is None or weights is None:
            return None
        width = weights[1] // gates
        return 2 * steps[0] * steps[1] * weights[0] * gates * width * (weights[2] + width)

    return count


def _reduced() -> Iterator[str]:
    yield from ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd")
    yield from ("ReduceSumSquare", "ReduceLogSumExp", "GlobalAveragePool", "GlobalMaxPool", "ArgMax", "ArgMin", "TopK")
    yield from ("CumSum",)


_COUNTED: Final[Mapping[str, Counter]] = {
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _convolution(1, transposed=True),
    "Gemm": _gemm,
    "MatMulNBits": _product,
    **dict.fromkeys(("MatMul", "MatMulInteger", "QLinearMatMul"), _product),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(_reduced(), _reduction),
    **{name: _recurrent(gates) for name, gates in _GATES.items()},
}
