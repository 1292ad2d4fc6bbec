"""Which channels of a graph can only go together, and which must stay: every axis of every tensor, followed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlopt.signature import walk

if TYPE_CHECKING:
    import numpy as np

    # A label per position of an axis; None for an axis that stays as it is (batch, height, time, size 1).
    Axis = np.ndarray | None
    Axes = tuple[Axis, ...]


@dataclass(slots=True)
class Channels:
    """Labels of positions, united where one cannot go without the other.

    `axes` holds the labels of every tensor whose rank is known; initializers have them too, and are cut by them.
    Two positions with labels of one class go together. A class that is `frozen` stays; the value says because of what.
    """

    graph: Any
    axes: dict[str, Axes] = field(default_factory=dict)
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, list[Any]] = field(default_factory=dict)
    makers: dict[str, Any] = field(default_factory=dict)
    _parents: list[int] = field(default_factory=list)
    _frozen: dict[int, str] = field(default_factory=dict)
    _settled: Any = ()

    def of(self, name: str) -> Axes | None:
        """The labels of a tensor; None when its rank is not known. A constant gets new ones when first asked."""
        if name in self.constants and name not in self.axes:
            self.axes[name] = tuple(self.fresh(size) if size > 1 else None for size in self.constants[name].dims)
        return self.axes.get(name)

    def fresh(self, size: int) -> np.ndarray:
        """So many new labels, each a class of its own."""
        import numpy as np

        first = len(self._parents)
        self._parents.extend(range(first, first + size))
        return np.arange(first, first + size)

    def root(self, label: int) -> int:
        """The label that stands for the class of this one."""
        parents = self._parents
        while parents[label] != label:
            parents[label] = parents[parents[label]]
            label = parents[label]
        return label

    def roots(self, axis: np.ndarray) -> np.ndarray:
        """The same for every label of an axis, once all is followed."""
        import numpy as np

        if len(self._settled) != len(self._parents):
            self._settled = np.array([self.root(label) for label in range(len(self._parents))], dtype=np.int64)
        found: np.ndarray = self._settled[axis]
        return found

    def unite(self, one: Axis, other: Axis, why: str) -> None:
        """Position by position. Where one of the two stays as it is, or they differ in length, the other stays too."""
        if one is None or other is None or len(one) != len(other):
            self.freeze(one, why)
            self.freeze(other, why)
            return
        for first, second in zip(one, other, strict=True):
            self._unite(self.root(int(first)), self.root(int(second)))

    def freeze(self, axis: Axis, why: str) -> None:
        for label in () if axis is None else axis:
            self._frozen.setdefault(self.root(int(label)), why)

    def frozen(self, root: int) -> str | None:
        """Because of what the class must stay; None when it may go."""
        return self._frozen.get(root)

    def _unite(self, first: int, second: int) -> None:
        if first == second:
            return
        low, high = sorted((first, second))
        self._parents[high] = low
        if reason := self._frozen.pop(high, None):
            self._frozen.setdefault(low, reason)


def follow(model: Any) -> Channels:
    """The channels of an onnx.ModelProto whose shapes are inferred and whose nodes have names of their own.

    Inputs and outputs of the graph stay as they are; so does whatever reaches an operator that is not known here.
    """
    from mlopt.prune.rules import apply

    graph = model.graph
    found = Channels(graph)
    found.constants = {tensor.name: tensor for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found.shapes[value.name] = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in dims)
    found.shapes |= {name: tuple(tensor.dims) for name, tensor in found.constants.items()}
    for value in graph.input:
        if value.name not in found.constants:
            found.axes[value.name] = (None,) * len(found.shapes.get(value.name, ()))
    for node in graph.node:
        found.makers |= dict.fromkeys(node.output, node)
        for name in node.input:
            found.readers.setdefault(name, []).append(node)
    for node in graph.node:
        apply(found, node)
    for value in graph.output:
        for axis in found.of(value.name) or ():
            found.freeze(axis, f"output {value.name!r}")
    for node in graph.node:
        for name in _captured(node):
            for axis in found.of(name) or ():
                found.freeze(axis, f"node {node.name} ({node.op_type})")
    return found


def _captured(node: Any) -> set[str]:
    """Names that the sub-graphs of a node read, which may be tensors outside of them."""
    held = [graph for entry in node.attribute for graph in ((entry.g,) if entry.type == 5 else entry.graphs)]
    return {name for graph in held for inner in walk(graph) for name in inner.input if name}
