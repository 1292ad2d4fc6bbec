"""An ONNX graph as it is written: values in the layouts and types that operators ask for, and what is constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mlopt.errors import UnsupportedModel
from mlopt.tflite.flatbuffer import Grid, TfliteFile

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]
Layout = tuple[bool, bool]
"""Whether integers, and whether channels last."""

TO_LAST: Final = (0, 2, 3, 1)  # NCHW, in which ONNX keeps pictures, to NHWC, in which LiteRT computes them
TO_FIRST: Final = (0, 3, 1, 2)
LAST: Final = (0, 3, 1, 2)  # where an axis of NCHW is in NHWC


@dataclass(slots=True)
class Value:
    """What nodes hand on. It is written in a layout when somebody asks for that, and once; `free` are the dimensions
    that follow the batch. `rounded` is the value of which this one is the integers."""

    name: str
    shape: Shape
    free: frozenset[int] = frozenset()
    grid: Grid | None = None
    rounded: Value | None = None
    made: dict[Layout, int] = field(default_factory=dict)

    @property
    def last(self) -> bool:
        """Whether it exists with channels last."""
        own = any(last for _, last in self.made)
        return own or (not self.made and self.rounded is not None and self.rounded.last)

    def shaped(self, last: bool) -> tuple[Shape, frozenset[int]]:
        if not last:
            return self.shape, self.free
        return tuple(self.shape[axis] for axis in TO_LAST), frozenset(LAST[axis] for axis in self.free)

    @property
    def same_order(self) -> bool:
        """Whether its bytes lie in the same order in both layouts."""
        return len(self.shape) == 4 and (self.shape[1] == 1 or self.shape[2] * self.shape[3] == 1)


@dataclass(frozen=True, slots=True)
class Constant:
    """Numbers known beforehand; of `scale` and `zero` along `axis` where they are integers that stand for others."""

    array: np.ndarray
    scale: np.ndarray | None = None
    zero: np.ndarray | None = None
    axis: int = 0

    @property
    def values(self) -> np.ndarray:
        import numpy as np

        if self.scale is None or self.zero is None:
            return self.array
        shape = [1] * self.array.ndim
        if self.scale.size > 1:
            shape[self.axis] = -1
        scale, zero = self.scale.reshape(shape), self.zero.reshape(shape).astype(np.int32)
        made: np.ndarray = (self.array.astype(np.int32) - zero).astype(np.float32) * scale
        return made

    @property
    def symmetric(self) -> bool:
        """Whether it is made of signed 8-bit integers with zero in the middle, as integer products want weights."""
        return self.zero is not None and self.array.dtype.name == "int8" and not self.zero.any()


@dataclass(frozen=True, slots=True)
class Node:
    """One ONNX node, as its writer sees it. `output` is what it makes, its activation done. Where `integer`, it reads
    integers and writes those of `grid`; where `hybrid`, its weights alone are integers."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    activation: str = "NONE"
    integer: bool = False
    grid: Grid | None = None
    hybrid: bool = False

    def refuse(self, why: str) -> NoReturn:
        raise UnsupportedModel(
            f"LiteRT's file cannot hold node {self.name!r} ({self.kind}): {why}",
            next="use a recipe that runs in ONNX Runtime: mlopt recipes list",
        )


class Graph:
    """The file, and by name the values and constants of the ONNX graph."""

    def __init__(self, constants: dict[str, Constant], shapes: Mapping[str, tuple[Shape, frozenset[int]]]) -> None:
        self.file = TfliteFile()
        self.constants = constants
        self.values: dict[str, Value] = {}
        self._shapes = shapes

    def shape(self, node: Node, name: str) -> Shape:
        """Of a value or constant, for a batch of one."""
        return self._known(node, name)[0]

    def value(self, node: Node, name: str) -> Value:
        """What a node reads; a constant that it does not expect as one is written as a value."""
        if name not in self.values and name in self.constants:
            value = Value(name, self.constants[name].array.shape)
            value.made[False, False] = self.file.constant(name, self.floats(node, name))
            self.values[name] = value
        if name not in self.values:
            node.refuse(f"nothing known makes its input {name!r}")
        return self.values[name]

    def floats(self, node: Node, name: str) -> np.ndarray:
        """The numbers of a constant."""
        import numpy as np

        if name not in self.constants:
            node.refuse(f"{name!r} is not constant")
        found = self.constants[name].values
        if found.dtype.kind != "f":
            node.refuse(f"{name!r} is of type {found.dtype}")
        return found.astype(np.float32)

    def scales(self, node: Node, name: str) -> list[float]:
        """Of a constant made of integers: one, or one for each channel."""
        scale = self.constants[name].scale
        if scale is None:
            node.refuse(f"{name!r} holds no integers")
        return [float(one) for one in scale.reshape(-1)]

    def whole(self, node: Node, place: int, attribute: str) -> list[int] | None:
        """Whole numbers that are an attribute in older opsets and an input in newer ones."""
        if attribute in node.attributes:
            return [int(one) for one in node.attributes[attribute]]
        if len(node.inputs) <= place or not node.inputs[place]:
            return None
        name = node.inputs[place]
        if name not in self.constants:
            node.refuse(f"{name!r} is not constant")
        return [int(one) for one in self.constants[name].array.reshape(-1)]

    def add(self, node: Node, *, grid: Grid | None = None) -> Value:
        """The value that a node makes, of `grid` where that is not the node's own."""
        shape, free = self._known(node, node.output)
        value = Value(node.output, shape, free, (grid or node.grid) if node.integer else None)
        self.values[node.output] = value
        return value

    def make(self, value: Value, *, last: bool) -> int:
        """The tensor into which the operator that computes the value writes it."""
        layout = (value.grid is not None, last)
        assert layout not in value.made
        value.made[layout] = self._tensor(value, layout)
        return value.made[layout]

    def read(self, value: Value, *, integer: bool = False, last: bool = False) -> int:
        """The tensor that holds the value so, written now if need be."""
        layout = (integer, last)
        if layout in value.made:
            return value.made[layout]
        if integer and not any(whole for whole, _ in value.made):
            assert value.rounded is not None
            source = self.read(value.rounded, integer=value.rounded.grid is not None, last=value.rounded.last)
            value.made[True, value.rounded.last] = made = self._tensor(value, (True, value.rounded.last))
            self.file.operator("QUANTIZE", [source], [made], "QuantizeOptions")
            return self.read(value, integer=True, last=last)
        if not integer and (value.grid is not None):
            source = self.read(value, integer=True, last=last)
            value.made[layout] = self._tensor(value, layout)
            self.file.operator("DEQUANTIZE", [source], [value.made[layout]], "DequantizeOptions")
            return value.made[layout]
        source = value.made[integer, not last]
        value.made[layout] = made = self._tensor(value, layout)
        if value.same_order:
            self.reshape(source, made, *value.shaped(last))
        else:
            self.transpose(source, made, TO_LAST if last else TO_FIRST)
        return made

    def ordered(self, value: Value, *, integer: bool) -> int:
        """A tensor whose bytes lie as in ONNX, whatever it says of its shape."""
        integer_made = {last for whole, last in value.made if whole == integer}
        if value.same_order and True in integer_made:
            return self.read(value, integer=integer, last=True)
        return self.read(value, integer=integer)

    def reshape(self, source: int, made: int, shape: Shape, free: frozenset[int]) -> None:
        import numpy as np

        sizes = np.array([-1 if axis in free else size for axis, size in enumerate(shape)], np.int32)
        self.file.operator("RESHAPE", [source, self.numbers("shape", sizes)], [made], "ReshapeOptions")

    def transpose(self, source: int, made: int, order: Sequence[int]) -> None:
        import numpy as np

        places = self.numbers("order", np.array(order, np.int32))
        self.file.operator("TRANSPOSE", [source, places], [made], "TransposeOptions")

    def numbers(self, name: str, array: np.ndarray) -> int:
        """A constant of whole numbers that says how to compute."""
        return self.file.constant(name, array)

    def _tensor(self, value: Value, layout: Layout) -> int:
        integer, last = layout
        shape, free = value.shaped(last)
        name = value.name + ("/int8" if integer else "") + ("/nhwc" if last else "")
        kind = "INT8" if integer else "FLOAT32"
        return self.file.tensor(name, shape, kind, free=free, grid=value.grid if integer else None)

    def _known(self, node: Node, name: str) -> tuple[Shape, frozenset[int]]:
        if name in self.constants:
            return self.constants[name].array.shape, frozenset()
        if name not in self._shapes:
            node.refuse(f"the shape of {name!r} is not known")
        return self._shapes[name]
