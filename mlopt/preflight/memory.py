"""How much memory a model needs on a device at least: its weights, and the values that are alive at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlopt.units import Bytes

_HALF: Final = {"INT4", "UINT4", "FLOAT4E2M1"}  # bytes of an element


@dataclass(frozen=True, slots=True)
class Need:
    """`unknown` counts values whose shape cannot be inferred: `activations` is then too small."""

    weights: Bytes
    activations: Bytes
    unknown: int

    @property
    def to_run(self) -> int:
        return self.weights + self.activations

    @property
    def to_build(self) -> int:
        """The parsed model and the engine are there at once, and what the builder times is as large as what runs."""
        return 2 * self.weights + 2 * self.activations


def need(model: Any, sizes: Mapping[str, tuple[int, ...]]) -> Need:
    """Of an onnx.ModelProto, each input in the shape that `sizes` names, else its own."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
            dim.Clear()
            dim.dim_value = size
    for value in copy.graph.output:  # their own dimensions may contradict those
        value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # a graph that contradicts itself, or those sizes: then its values are of unknown size
        graph = copy.graph
    held = {tensor.name for tensor in graph.initializer}
    bytes_of = {
        value.name: _size(value.type.tensor_type.elem_type, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type
        and value.type.tensor_type.HasField("shape")
        and all(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    }
    weights = sum(_size(tensor.data_type, list(tensor.dims)) for tensor in graph.initializer)
    made = [name for node in graph.node for name in node.output if name]
    unknown = sum(name not in bytes_of for name in made)
    return Need(Bytes(weights), Bytes(_most_alive(graph, bytes_of, held)), unknown)


def _most_alive(graph: Any, bytes_of: Mapping[str, int], held: set[str]) -> int:
    last: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        last.update(dict.fromkeys(node.input, number))
    last |= {value.name: len(graph.node) for value in graph.output}
    alive = {value.name: bytes_of.get(value.name, 0) for value in graph.input if value.name not in held}
    most = sum(alive.values())
    for number, node in enumerate(graph.node):
        alive |= {name: bytes_of.get(name, 0) for name in node.output if name}
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last.get(name, number) <= number]:
            del alive[name]
    return most


def _size(kind: int, dims: list[int]) -> int:
    import math

    import onnx

    count = math.prod(dims)
    if onnx.TensorProto.DataType.Name(kind) in _HALF:
        return (count + 1) // 2
    return count * onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
