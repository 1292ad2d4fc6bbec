"""Operators that compute each element alone, or with one of another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mlopt.tflite.flatbuffer import Grid
from mlopt.tflite.graph import TO_LAST, Graph, Node
from mlopt.tflite.windows import activation

if TYPE_CHECKING:
    import numpy as np

Write = Callable[[Graph, Node], None]
_UNBOUNDED: Final = 3.4e38  # what exporters write for no bound


def binary(graph: Graph, node: Node) -> None:
    """ADD, SUB, MUL, DIV, MAXIMUM and MINIMUM, with one of both constant or none."""
    kind = {"Max": "MAXIMUM", "Min": "MINIMUM"}.get(node.kind, node.kind.upper())
    if len(node.inputs) != 2:
        node.refuse("it does not have two inputs")
    values = [graph.values[name] for name in node.inputs if name not in graph.constants]
    rank = len(graph.shape(node, node.output))
    last = rank == 4 and any(value.last for value in values)
    if any(len(value.shape) != rank for value in values) and last:
        node.refuse("its inputs are of different ranks")
    sources = [
        _beside(graph, node, name, rank, last)
        if name in graph.constants
        else graph.read(graph.value(node, name), integer=node.integer, last=last)
        for name in node.inputs
    ]
    made = graph.make(graph.add(node), last=last)
    if kind in ("MAXIMUM", "MINIMUM"):
        graph.file.operator(kind, sources, [made], "MaximumMinimumOptions")
    else:
        options = f"{kind.title()}Options"
        graph.file.operator(kind, sources, [made], options, fusedActivationFunction=activation(node))


def unary(kind: str, options: str = "", *, only: Grid | None = None) -> Write:
    """An operator on each element alone; of integers into a grid that it alone has, where there is an `only` one."""

    def write(graph: Graph, node: Node) -> None:
        read = graph.value(node, node.inputs[0])
        source = graph.read(read, integer=node.integer, last=read.last)
        made = graph.make(graph.add(node, grid=only), last=read.last)
        said = {"alpha": float(node.attributes.get("alpha", 0.01))} if options == "LeakyReluOptions" else {}
        graph.file.operator(kind, [source], [made], options, **said)

    return write


def clip(graph: Graph, node: Node) -> None:
    """RELU and its like, or the larger and the smaller of two."""
    if (kind := clipping(graph, node)) != "NONE":
        unary(kind)(graph, node)
        return
    read = graph.value(node, node.inputs[0])
    last = read.last
    both = zip(("MAXIMUM", "MINIMUM"), _bounds(graph, node), strict=True)
    bounds = [(kind, bound) for kind, bound in both if bound is not None]
    if not bounds:
        passed(graph, node)
        return
    source, value = graph.read(read, last=last), graph.add(node)
    for number, (kind, bound) in enumerate(bounds):
        scalar = graph.file.constant(f"{node.output}/{kind.lower()}", _scalar(bound))
        shape, free = value.shaped(last)
        through = (
            graph.make(value, last=last)
            if number == len(bounds) - 1
            else graph.file.tensor(f"{node.output}/between", shape, "FLOAT32", free=free)
        )
        graph.file.operator(kind, [source, scalar], [through], "MaximumMinimumOptions")
        source = through


def clipping(graph: Graph, node: Node) -> str:
    """Which of LiteRT's activations a Relu or Clip is; NONE for another."""
    if node.kind == "Relu":
        return "RELU"
    known: dict[tuple[float | None, float | None], str] = {
        (0.0, None): "RELU",
        (0.0, 6.0): "RELU6",
        (-1.0, 1.0): "RELU_N1_TO_1",
    }
    return known.get(_bounds(graph, node), "NONE")


def hard_sigmoid(graph: Graph, node: Node) -> None:
    """min(max(x + 3, 0), 6) / 6, which is all of them that LiteRT has operators for."""
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    if abs(alpha - 1 / 6) > 1e-6 or beta != 0.5:
        node.refuse(f"its slope is {alpha:g} and its middle {beta:g}, not 1/6 and 0.5")
    read = graph.value(node, node.inputs[0])
    last = read.last
    source = graph.read(read, last=last)
    value = graph.add(node)
    shape, free = value.shaped(last)
    between = graph.file.tensor(f"{node.output}/six", shape, "FLOAT32", free=free)
    three, sixth = (graph.file.constant(f"{node.output}/{name}", _scalar(x)) for name, x in (("3", 3), ("6th", 1 / 6)))
    graph.file.operator("ADD", [source, three], [between], "AddOptions", fusedActivationFunction=3)
    graph.file.operator("MUL", [between, sixth], [graph.make(value, last=last)], "MulOptions")


def normalization(graph: Graph, node: Node) -> None:
    """A BatchNormalization that no convolution took in: a product and a sum for each channel."""
    scale, bias, mean, variance = (graph.floats(node, name) for name in node.inputs[1:5])
    factor = scale / (variance + scale.dtype.type(node.attributes.get("epsilon", 1e-5))) ** 0.5
    read = graph.value(node, node.inputs[0])
    last = len(read.shape) == 4
    if len(read.shape) not in (2, 4):
        node.refuse("it is neither over pictures nor over rows")
    source, value = graph.read(read, last=last), graph.add(node)
    shape, free = value.shaped(last)
    between = graph.file.tensor(f"{node.output}/scaled", shape, "FLOAT32", free=free)
    factors = graph.file.constant(f"{node.output}/factor", factor)
    added = graph.file.constant(f"{node.output}/shift", bias - mean * factor)
    graph.file.operator("MUL", [source, factors], [between], "MulOptions")
    made = graph.make(value, last=last)
    graph.file.operator("ADD", [between, added], [made], "AddOptions", fusedActivationFunction=activation(node))


def passed(graph: Graph, node: Node) -> None:
    """Nothing is computed: the value under another name."""
    graph.values[node.output] = graph.value(node, node.inputs[0])


def _beside(graph: Graph, node: Node, name: str, rank: int, last: bool) -> int:
    """A constant that is computed with element by element, in the layout of the other."""
    held = graph.constants[name]
    array = held.array if node.integer else graph.floats(node, name)
    if last:
        array = array.reshape((1,) * (rank - array.ndim) + array.shape).transpose(TO_LAST)
    if not node.integer:
        return graph.file.constant(name, array)
    assert held.zero is not None
    return graph.file.constant(name, array, scale=graph.scales(node, name), zero=held.zero.reshape(-1).tolist())


def _bounds(graph: Graph, node: Node) -> tuple[float | None, float | None]:
    """The least and the most of a Clip, each where there is one."""
    found: list[float | None] = []
    for place, attribute in enumerate(("min", "max"), 1):
        bound = node.attributes.get(attribute)
        if len(node.inputs) > place and node.inputs[place]:
            bound = graph.floats(node, node.inputs[place]).item()
        found.append(None if bound is None or abs(bound) >= _UNBOUNDED else float(bound))
    return found[0], found[1]


def _scalar(value: float) -> np.ndarray:
    import numpy as np

    return np.array(value, np.float32)
