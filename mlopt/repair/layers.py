"""Convolutions and matrix products as rows of weights times columns of inputs, whatever operator they are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlopt.onnx_file import attributes_of, readers_of

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Layer:
    """A node that multiplies its input with constant weights that no other node reads.

    `matrix` of the weights is [groups, rows, columns]: a row makes one channel of the output, a column takes one
    value of a patch of the input. `bias` is "" where the node has none that is constant, a vector and its own.
    """

    name: str
    input: str
    output: str
    weight: str
    bias: str
    operator: str
    groups: int
    turned: bool  # the columns come first in the tensor
    shape: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | str
    strides: tuple[int, ...]
    dilations: tuple[int, ...]

    @property
    def channels_in(self) -> int:
        """Channels of the input."""
        return self.shape[1] * self.groups if self.operator == "Conv" else self.shape[0 if self.turned else 1]

    @property
    def channels_out(self) -> int:
        """Channels of the output."""
        return self.shape[1 if self.turned else 0]

    def matrix(self, weights: np.ndarray) -> np.ndarray:
        """The tensor as [groups, rows, columns]."""
        if self.turned:
            return weights.T[None]
        return weights.reshape(self.groups, self.shape[0] // self.groups, -1)

    def tensor(self, matrix: np.ndarray) -> np.ndarray:
        """What `matrix` undoes."""
        return matrix[0].T if self.turned else matrix.reshape(self.shape)

    def patches(self, value: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
        """An input as [groups, positions, columns], all positions of the output or the chosen ones."""
        if self.operator != "Conv":
            rows = value.reshape(1, -1, value.shape[-1])
            return rows if positions is None else rows[:, positions]
        return self._windows(value, positions)

    def positions(self, shape: tuple[int, ...]) -> int:
        """How many positions of the output an input of that shape gives."""
        if self.operator != "Conv":
            return math.prod(shape[:-1])
        return shape[0] * math.prod(self._out(shape[2:]))

    def _windows(self, value: np.ndarray, positions: np.ndarray | None) -> np.ndarray:
        """By the number of each value that a chosen position reads: the rest of a picture is not touched."""
        import numpy as np

        sides = value.shape[2:]
        shape = (len(value), *self._out(sides))
        sample, *places = np.unravel_index(np.arange(math.prod(shape)) if positions is None else positions, shape)
        reads, inside = sample[:, None], np.ones((len(sample), 1), bool)
        for axis, (place, side, (before, _)) in enumerate(zip(places, sides, self._pads(sides), strict=True)):
            taps = np.arange(self.shape[2 + axis]) * self.dilations[axis] - before
            at = place[:, None] * self.strides[axis] + taps
            reads = (reads[:, :, None] * side + np.clip(at, 0, side - 1)[:, None]).reshape(len(sample), -1)
            inside = (inside[:, :, None] & ((at >= 0) & (at < side))[:, None]).reshape(len(sample), -1)
        found = np.moveaxis(value, 1, 0).reshape(self.channels_in, -1).take(reads, axis=1, mode="clip")
        if not inside.all():
            found[:, ~inside] = 0
        grouped = found.reshape(self.groups, -1, *reads.shape)
        return np.swapaxes(grouped, 1, 2).reshape(self.groups, len(sample), -1)

    def _out(self, sides: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(
            (side + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
            for side, pads, kernel, stride, dilation in zip(
                sides, self._pads(sides), self.shape[2:], self.strides, self.dilations, strict=True
            )
        )

    def _pads(self, sides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        if not isinstance(self.padding, str):
            return self.padding
        pads = []
        for side, kernel, stride, dilation in zip(sides, self.shape[2:], self.strides, self.dilations, strict=True):
            lacking = max((-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
            less = lacking // 2
            pads.append((less, lacking - less) if self.padding == "SAME_UPPER" else (lacking - less, less))
        return tuple(pads)


def layers_of(graph: Any) -> tuple[Layer, ...]:
    """The layers in the graph's order; weights must be float32 initializers that one node alone reads, once."""
    import onnx

    sizes = {
        tensor.name: tuple(tensor.dims) for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT
    }
    for value in graph.input:
        sizes.pop(value.name, None)  # what a caller may replace is no constant
    readers = readers_of(graph)
    own = {name: size for name, size in sizes.items() if len(readers.get(name, ())) == 1}
    return tuple(layer for node in graph.node if (layer := _layer(node, own)) is not None)


def _layer(node: Any, constants: dict[str, tuple[int, ...]]) -> Layer | None:
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[0] in constants:
        return None
    shape = constants.get(node.input[1], ())
    said = attributes_of(node)
    spatial = len(shape) - 2
    if spatial < 1 if node.op_type == "Conv" else spatial != 0:
        return None
    if node.op_type == "Gemm" and (said.get("transA") or said.get("alpha", 1.0) != 1 or said.get("beta", 1.0) != 1):
        return None
    turned = node.op_type != "Conv" and not said.get("transB")
    bias = node.input[2] if len(node.input) > 2 else ""
    if constants.get(bias) != (shape[1 if turned else 0],):
        bias = ""
    return Layer(
        node.name,
        node.input[0],
        node.output[0],
        node.input[1],
        bias,
        node.op_type,
        int(said.get("group", 1)),
        turned,
        shape,
        _padding(said, spatial),
        tuple(said.get("strides", [1] * spatial)),
        tuple(said.get("dilations", [1] * spatial)),
    )


def _padding(said: dict[str, Any], spatial: int) -> tuple[tuple[int, int], ...] | str:
    auto = said.get("auto_pad", b"NOTSET").decode()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        return str(auto)
    pads = said.get("pads", [0] * 2 * spatial) if auto == "NOTSET" else [0] * 2 * spatial
    return tuple((pads[axis], pads[axis + spatial]) for axis in range(spatial))
