"""An ONNX file written as a .tflite file: integers where its QuantizeLinear and DequantizeLinear allow them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import attributes_of, inferred, readers_of, shapes_in
from mlopt.tflite.elements import clipping
from mlopt.tflite.flatbuffer import Grid
from mlopt.tflite.graph import Constant, Graph, Node, Shape, Value
from mlopt.tflite.operators import SHARES, WRITERS
from mlopt.tflite.tiles import worth_tiles

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
_IN_EACH_QUERY: Final = "DynamicQuantizeLinear"
# What hands on each integer that it reads, or several of them as one.
_HANDING_ON: Final = frozenset({
    "AveragePool", "Dropout", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose",
    "Unsqueeze",
})  # fmt: skip
# What XNNPACK computes of integers into those of a grid that somebody names. HardSwish is not among it: LiteRT's own
# kernel takes more than twice the time of float32 between two conversions.
_ROUNDING: Final = frozenset({
    "Add", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "Mul", "ReduceMean",
    "Relu", "Sub",
})  # fmt: skip
_PRODUCTS: Final = frozenset({"Conv", "Gemm", "MatMul"})
_OWN_GRID: Final = frozenset({"Sigmoid", "Tanh"})
_ACTIVATED: Final = frozenset({"Add", "BatchNormalization", "Conv", "Div", "Gemm", "MatMul", "Mul", "Sub"})
_SIZE_ALONE: Final = frozenset({"Reshape", "Squeeze", "Unsqueeze"})  # of these the first input alone holds values


@dataclass(frozen=True, slots=True)
class Written:
    """The file, and of the ONNX nodes that multiply by weights those that do so in integers and those that do not."""

    data: bytes
    integer: tuple[str, ...]
    floating: tuple[str, ...]


def write_tflite(model: Path) -> Written:
    """The inputs and outputs keep their names, types and layouts; so does a free batch. Raises `UnsupportedModel` with
    the node that the file cannot hold."""
    import onnx

    loaded = onnx.load(str(model))
    try:
        return _Writer(loaded).written()
    except UnsupportedModel as error:
        raise UnsupportedModel(error.what, where=str(model), next=error.next) from error


@dataclass
class _Writer:
    model: Any
    graph: Graph = field(init=False)

    def __post_init__(self) -> None:
        self.onnx = self.model.graph
        self.constants = dict(_constants(self.onnx))
        self.given = [value for value in self.onnx.input if value.name not in self.constants]
        self.shapes = _shapes(self.model, self.given)
        self.readers = readers_of(self.onnx)
        self.makers = {name: node for node in self.onnx.node for name in node.output if name}
        self.graph = Graph(self.constants, self.shapes)
        self.done: set[str] = set()
        self.hybrid: set[str] = set()  # values that each query rounds for itself where they are read
        self.products: dict[bool, list[str]] = {True: [], False: []}

    def written(self) -> Written:
        from mlopt.serve.litert import NO_TILES

        inputs = [self._input(value) for value in self.given]
        needed = self._needed()
        for node in self.onnx.node:
            if node.output and node.output[0] in needed and node.output[0] not in self.done:
                self._write(node)
        outputs = self._outputs(inputs)
        about = f"written by mlopt {metadata.version('mlopt')}"
        if not worth_tiles(self.graph.file.integer_products()):
            about += NO_TILES
        data = self.graph.file.packed(inputs, outputs, about=about)
        return Written(data, tuple(self.products[True]), tuple(self.products[False]))

    def _input(self, value: Any) -> int:
        import onnx

        node = Node(value.name, "input", (), value.name, {})
        if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
            node.refuse("its type is not float32")
        if value.name not in self.shapes:
            node.refuse("more of its sizes than the batch are free")
        shape, free = self.shapes[value.name]
        held = self.graph.values[value.name] = Value(value.name, shape, free)
        return self.graph.make(held, last=False)

    def _needed(self) -> set[str]:
        """What the outputs are computed of; what only says shapes is not."""
        found: set[str] = set()
        waiting = [value.name for value in self.onnx.output]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.makers:
                continue
            found.add(name)
            node = self.makers[name]
            waiting += node.input[:1] if node.op_type in _SIZE_ALONE else [one for one in node.input if one]
        return found

    def _write(self, node: Any) -> None:
        if node.output[0] in self.constants:
            return
        plain = Node(node.name or node.output[0], node.op_type, tuple(node.input), node.output[0], attributes_of(node))
        if node.op_type == _IN_EACH_QUERY and self._undone(node):
            return
        if node.domain not in ("", "ai.onnx") or any(name in self.readers for name in node.output[1:]):
            plain.refuse("LiteRT has no such operator" if node.domain else "more than its first output is read")
        if node.op_type == _QUANTIZE:
            self._quantize(plain)
        elif node.op_type == _DEQUANTIZE:
            self._dequantize(plain)
        elif node.op_type in WRITERS:
            self._operator(plain)
        else:
            plain.refuse("there is no operator for it")

    def _undone(self, node: Any) -> bool:
        """Whether all that reads what each query rounds for itself makes numbers of it again, by the same grid."""
        reading = [reader for name in node.output for reader in self.readers.get(name, ())]
        return all(
            reader is not None and reader.op_type == _DEQUANTIZE and list(reader.input) == list(node.output)
            for reader in reading
        )

    def _quantize(self, node: Node) -> None:
        read, grid = self.graph.value(node, node.inputs[0]), self._grid(node)
        if read.grid != grid:
            read = Value(node.output, read.shape, read.free, grid, rounded=read)
        self.graph.values[node.output] = read

    def _dequantize(self, node: Node) -> None:
        maker = self.makers.get(node.inputs[0])
        if maker is not None and maker.op_type == _IN_EACH_QUERY:
            if None in self.readers.get(node.output, ()):
                node.refuse("what each query rounds for itself is an output")
            self.graph.values[node.output] = self.graph.value(node, maker.input[0])
            self.hybrid.add(node.output)
            return
        read = self.graph.value(node, node.inputs[0])
        if read.grid != self._grid(node):
            node.refuse("what it reads has another scale or zero-point")
        self.graph.values[node.output] = read

    def _operator(self, node: Node) -> None:
        node = self._activated(self._simpler(node))
        hybrid, grid = self._hybrid(node), self._integer_grid(node)
        node = replace(node, integer=grid is not None, grid=grid, hybrid=hybrid)
        WRITERS[node.kind](self.graph, node)
        self.done.add(node.output)
        if node.kind in _PRODUCTS:
            self.products[node.integer or hybrid].append(node.name)

    def _simpler(self, node: Node) -> Node:
        """A mean over the whole picture as that: XNNPACK has a kernel of integers for it, and none for windows."""
        shape = self.shapes.get(node.inputs[0], ((), None))[0]
        if node.kind != "AveragePool" or tuple(node.attributes["kernel_shape"]) != shape[2:]:
            return node
        if any(node.attributes.get("pads", ())) or len(shape) != 4:
            return node
        return Node(node.name, "GlobalAveragePool", node.inputs, node.output, {})

    def _activated(self, node: Node) -> Node:
        """With the activation that alone reads it, if LiteRT computes the two in one."""
        following = self.readers.get(node.output, [])
        if node.kind not in _ACTIVATED or len(following) != 1 or following[0] is None:
            return node
        behind = following[0]
        if behind.op_type not in ("Relu", "Clip") or behind.input[0] != node.output:
            return node
        after = Node(behind.name, behind.op_type, tuple(behind.input), behind.output[0], attributes_of(behind))
        kind = clipping(self.graph, after)
        return node if kind == "NONE" else Node(
            node.name, node.kind, node.inputs, after.output, node.attributes, kind
        )  # fmt: skip

    def _integer_grid(self, node: Node) -> Grid | None:
        """The grid of the integers that the node is to make of integers; None where it computes in float32."""
        read = [self.graph.values[name].grid for name in node.inputs if name in self.graph.values]
        first = next(iter(read), None)
        if first is None or None in read or not self._integer_constants(node):
            return None
        asked = self._asked(node.output)
        if node.kind in _HANDING_ON:
            return first
        if node.kind == "Concat":
            return asked or (first if len(set(read)) == 1 else None)
        if node.kind in _OWN_GRID:
            return first
        if node.kind == "Softmax":
            return SHARES if asked == SHARES else None
        if node.kind in ("Relu", "Clip") and clipping(self.graph, node) == "NONE":
            return None
        return asked if node.kind in _ROUNDING or node.kind == "Clip" else None

    def _hybrid(self, node: Node) -> bool:
        """Whether it rounds what it reads in each query, for int8 weights: LiteRT's products of such weights do so of
        themselves, and its other operators do not."""
        if self.hybrid.isdisjoint(node.inputs):
            return False
        if node.kind not in _PRODUCTS or not self._integer_constants(node) or node.attributes.get("group", 1) != 1:
            node.refuse("it reads what each query rounds for itself, and is no product with int8 weights")
        return True

    def _integer_constants(self, node: Node) -> bool:
        """Whether what is constant is there as integers that LiteRT multiplies."""
        if node.kind in _PRODUCTS:
            weights = self.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            axis = 1 if node.kind == "MatMul" or (node.kind == "Gemm" and not node.attributes.get("transB")) else 0
            single = weights is not None and weights.scale is not None and weights.scale.size == 1
            fits = weights is not None and weights.symmetric and (single or weights.axis % weights.array.ndim == axis)
            return fits and float(node.attributes.get("alpha", 1)) == 1
        if node.kind in ("Add", "Sub", "Mul"):
            held = [self.constants[name] for name in node.inputs if name in self.constants]
            return all(one.scale is not None and one.scale.size == 1 and one.array.dtype.name == "int8" for one in held)
        return not (node.kind == "Concat" and any(name in self.constants for name in node.inputs))

    def _asked(self, name: str) -> Grid | None:
        """The grid on which all that reads a value wants it."""
        following = self.readers.get(name, [])
        if not following or any(one is None or one.op_type != _QUANTIZE for one in following):
            return None
        grids = {self._grid(Node(one.name, _QUANTIZE, tuple(one.input), one.output[0], {})) for one in following}
        return grids.pop() if len(grids) == 1 else None

    def _grid(self, node: Node) -> Grid:
        """Of a QuantizeLinear or DequantizeLinear of values; unsigned integers are moved to signed ones."""
        held = [self.constants.get(name) for name in node.inputs[1:]]
        if any(one is None or one.array.size != 1 for one in held) or not held:
            node.refuse("its scale or zero-point is not one number that is known beforehand")
        scale, zero = held[0], held[1] if len(held) > 1 else None
        assert scale is not None
        kind = zero.array.dtype.name if zero else "uint8"
        if kind not in ("int8", "uint8"):
            node.refuse(f"its integers are {kind}, not of 8 bits")
        moved = 128 if kind == "uint8" else 0
        return Grid(float(scale.array.item()), int(zero.array.item() if zero else 0) - moved)

    def _outputs(self, inputs: Sequence[int]) -> list[int]:
        found: list[int] = []
        for output in self.onnx.output:
            node = Node(output.name, "output", (output.name,), output.name, {})
            value = self.graph.value(node, output.name)
            number = self.graph.read(value)
            if number in (*inputs, *found):  # one tensor cannot be both
                copy = Value(output.name, value.shape, value.free)
                number, source = self.graph.make(copy, last=False), number
                self.graph.reshape(source, number, copy.shape, copy.free)
            self.graph.file.rename(number, output.name)
            found.append(number)
        return found


def _constants(graph: Any) -> Iterator[tuple[str, Constant]]:
    """Initializers, Constant nodes, and what DequantizeLinear makes of them, by name."""
    from onnx import numpy_helper

    plain = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        said = attributes_of(node)
        if node.op_type == "Constant" and "value" in said:
            plain[node.output[0]] = numpy_helper.to_array(said["value"])
        elif node.op_type == _DEQUANTIZE and all(name in plain for name in node.input):
            yield node.output[0], _dequantized([plain[name] for name in node.input], int(said.get("axis", 1)))
    yield from ((name, Constant(array)) for name, array in plain.items())


def _dequantized(held: Sequence[Any], axis: int) -> Constant:
    import numpy as np

    array, scale = held[0], held[1]
    zero = held[2] if len(held) > 2 else np.zeros_like(scale, dtype=array.dtype)
    if array.dtype == np.uint8:
        array, zero = (array.astype(np.int16) - 128).astype(np.int8), zero.astype(np.int16) - 128
    return Constant(array, scale, zero.astype(np.int32), axis)


def _shapes(model: Any, given: Sequence[Any]) -> Mapping[str, tuple[Shape, frozenset[int]]]:
    """Of every value for a batch of one, and which dimensions follow the batch."""
    one, other = (shapes_in(inferred(model, _sizes(given, batch))) for batch in (1, 2))
    found = {}
    for name, (_, shape) in one.items():
        beside = other.get(name, (0, shape))[1]
        free = frozenset(axis for axis, (size, more) in enumerate(zip(shape, beside, strict=True)) if size != more)
        found[name] = (shape, free)
    return found


def _sizes(given: Sequence[Any], batch: int) -> dict[str, Shape]:
    """The shapes of the inputs where the dimension that is called as the first one's batch is so large."""
    called = {
        value.type.tensor_type.shape.dim[0].dim_param for value in given if len(value.type.tensor_type.shape.dim)
    } - {""}
    sizes = {}
    for value in given:
        shape = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                shape.append(dim.dim_value)
            elif axis == 0 or dim.dim_param in called:
                shape.append(batch)
            else:
                break
        sizes[value.name] = tuple(shape)
    return sizes
