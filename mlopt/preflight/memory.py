"""How much memory a model needs on a device at least: its weights, and the values that are alive at one time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlopt.onnx_file import bytes_of, inferred, shapes_in
from mlopt.units import Bytes


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
    graph = inferred(model, sizes)
    held = {tensor.name for tensor in graph.initializer}
    sized = {name: bytes_of(*known) for name, known in shapes_in(graph).items() if name not in held}
    weights = sum(bytes_of(tensor.data_type, tensor.dims) for tensor in graph.initializer)
    made = [name for node in graph.node for name in node.output if name]
    unknown = sum(name not in sized for name in made)
    return Need(Bytes(weights), Bytes(_most_alive(graph, sized, held)), unknown)


def _most_alive(graph: Any, sized: Mapping[str, int], held: set[str]) -> int:
    last: dict[str, int] = {}
    for number, node in enumerate(graph.node):
        last.update(dict.fromkeys(node.input, number))
    last |= {value.name: len(graph.node) for value in graph.output}
    alive = {value.name: sized.get(value.name, 0) for value in graph.input if value.name not in held}
    most = sum(alive.values())
    for number, node in enumerate(graph.node):
        alive |= {name: sized.get(name, 0) for name in node.output if name}
        most = max(most, sum(alive.values()))
        for name in [name for name in alive if last.get(name, number) <= number]:
            del alive[name]
    return most
