"""Pairs of layers between which the scale of a channel can be moved without changing what the model computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.onnx_file import attributes_of, readers_of
from mlopt.repair.layers import Layer, layers_of

if TYPE_CHECKING:
    import numpy as np

# f(s x) = s f(x) for s > 0, channel by channel.
_HOMOGENEOUS: Final = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool"}
    | {"GlobalMaxPool", "Flatten", "Squeeze", "Reshape", "ReduceMean", "ReduceMax"}
)
_SHAPERS: Final = frozenset({"Flatten", "Squeeze", "Reshape", "ReduceMean", "ReduceMax"})


@dataclass(frozen=True, slots=True)
class Pair:
    """`first` makes the channels that `seconds` alone read, past nodes that keep them apart and scale along.

    `between` are the tensors from the output of `first` to the input of all `seconds`. `spread` is how many
    neighbouring inputs of those each channel became (a picture made flat).
    """

    first: Layer
    seconds: tuple[Layer, ...]
    between: tuple[str, ...]
    spread: int


def pairs_of(graph: Any) -> tuple[Pair, ...]:
    """In the graph's order."""
    layers = layers_of(graph)
    readers, by_name = readers_of(graph), {layer.name: layer for layer in layers}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    found = []
    for layer in layers:
        pair = _followed(layer, readers, by_name, constants)
        if pair is not None:
            found.append(pair)
    return tuple(found)


def _followed(
    first: Layer, readers: Mapping[str, Sequence[Any]], layers: Mapping[str, Layer], constants: Mapping[str, Any]
) -> Pair | None:
    if first.operator == "MatMul":
        return None  # its channels are the last axis, and it has no bias of its own
    tensor, between, rank = first.output, [first.output], len(first.shape)
    while True:
        reading = readers.get(tensor, ())
        if not reading or None in reading:
            return None
        if all(node.name in layers for node in reading):
            break
        node = reading[0]
        if len(reading) != 1 or node.op_type not in _HOMOGENEOUS or len([name for name in node.output if name]) != 1:
            return None
        if node.input[0] != tensor or not _keeps_channels(node, rank, constants):
            return None
        if node.op_type in _SHAPERS and not attributes_of(node).get("keepdims", node.op_type.startswith("Reduce")):
            rank = 2
        tensor = node.output[0]
        between.append(tensor)
    seconds = tuple(layers[node.name] for node in reading)
    if any(one.input != tensor or one.operator == "MatMul" or one.channels_in % first.channels_out for one in seconds):
        return None
    spread = seconds[0].channels_in // first.channels_out
    if spread != 1 and any(one.operator == "Conv" for one in seconds):
        return None
    return Pair(first, seconds, tuple(between), spread)


def _keeps_channels(node: Any, rank: int, constants: Mapping[str, Any]) -> bool:
    """Whether channel i of the output comes from channel i of the input alone, and scales with it."""
    said = attributes_of(node)
    values = [_value(constants, name) for name in node.input[1:]]
    if node.op_type == "PRelu":
        return values[0] is not None
    if node.op_type == "Flatten":
        return bool(said.get("axis", 1) == 1)
    if node.op_type == "Reshape":  # [N, C, ...] to [N, C * ...]
        return values[0] is not None and len(values[0]) == 2 and values[0][0] in (0, 1, -1)
    if node.op_type in _SHAPERS:  # over everything but the samples and channels
        axes = said.get("axes", values[0] if values else None)
        return axes is not None and sorted(axis % rank for axis in axes) == list(range(2, rank))
    return True


def _value(constants: Mapping[str, Any], name: str) -> list[Any] | None:
    from onnx import numpy_helper

    return numpy_helper.to_array(constants[name]).ravel().tolist() if name in constants else None


def scale(pair: Pair, constants: dict[str, np.ndarray], factors: np.ndarray) -> None:
    """Divide what `pair.first` makes by `factors`, channel by channel, and multiply what reads it."""
    import numpy as np

    first = pair.first
    matrix = first.matrix(constants[first.weight])
    constants[first.weight] = first.tensor(matrix / factors.reshape(first.groups, -1, 1))
    if first.bias:
        constants[first.bias] = constants[first.bias] / factors
    for second in pair.seconds:
        constants[second.weight] = second.tensor(
            second.matrix(constants[second.weight]) * _columns(second, np.repeat(factors, pair.spread))
        )


def rows_reach(layer: Layer, weights: np.ndarray) -> np.ndarray:
    """The largest weight of each output channel."""
    import numpy as np

    result: np.ndarray = np.abs(layer.matrix(weights)).max(axis=2).ravel()
    return result


def columns_reach(pair: Pair, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest weight that each channel of the pair is multiplied with."""
    import numpy as np

    most = np.max([_largest(second, constants[second.weight]) for second in pair.seconds], axis=0)
    result: np.ndarray = most.reshape(-1, pair.spread).max(axis=1)
    return result


def _largest(layer: Layer, weights: np.ndarray) -> np.ndarray:
    """By input channel."""
    import numpy as np

    size = np.abs(layer.matrix(weights)).max(axis=1)
    width = size.shape[1] * size.shape[0] // layer.channels_in
    result: np.ndarray = size.reshape(layer.channels_in, width).max(axis=1)
    return result


def _columns(layer: Layer, factors: np.ndarray) -> np.ndarray:
    """Factors of input channels as [groups, 1, columns]."""
    import numpy as np

    columns = layer.shape[0] if layer.turned else int(np.prod(layer.shape[1:]))
    width = columns * layer.groups // layer.channels_in
    return np.repeat(factors, width).reshape(layer.groups, 1, columns)
