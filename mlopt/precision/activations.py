"""Activations that are special: attention and idle joints, which some runtimes get in floating point; what is added to
each other; and scores."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from mlopt.onnx_file import readers_of
from mlopt.precision.groups import PRODUCTS

_JOINTS: Final = frozenset({"AveragePool", "Concat", "GlobalAveragePool", "MaxPool"})
# Hands a tensor on, integers included, to whatever reads it next.
_PASSING: Final = _JOINTS | {
    "Clip", "DepthToSpace", "Dropout", "Flatten", "Gather", "Identity", "LeakyRelu", "Pad", "Relu", "Reshape", "Resize",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def unweighted(graph: Any) -> tuple[str, ...]:
    """The products of two activations, in order: scores of attention, and what they weigh.

    They are small beside the products with weights, lie between a softmax and its scale, which runtimes compute in one
    kernel with them, and scores of few bits cost more accuracy than all the rest. `graph` is an onnx.GraphProto.
    """
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(
        node.name for node in graph.node if node.op_type in PRODUCTS and not constants.intersection(node.input[:2])
    )


def idle_joints(graph: Any) -> tuple[str, ...]:
    """The concatenations and poolings, in order, whose values reach no product but through arithmetic in floating
    point: integers there are rounding for nothing (a class token set before a picture's patches)."""
    reaching: set[str] = set()  # tensors that a product reads, itself or past what hands them on
    for node in reversed(graph.node):
        if node.op_type in PRODUCTS:
            reaching.update(node.input[:2])
        elif node.op_type in _PASSING and reaching.intersection(node.output):
            reaching.update(node.input)
    return tuple(node.name for node in graph.node if node.op_type in _JOINTS and not reaching.intersection(node.output))


def inputs(graph: Any) -> frozenset[str]:
    """The tensors that come from outside, transposed or not."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in found:
            found.update(node.output)
    return frozenset(found)


def summed(graph: Any, *, but: Container[str] = ()) -> tuple[str, ...]:
    """What products write of which a runtime adds two to each other: of each such Add the first one's output.

    A kernel adds to its product what was computed before, and rounds the sum. The other product's output then lies in
    between in memory: as integers in a quarter of the bytes. Products named in `but` are in floating point.
    """
    readers = readers_of(graph)
    products = {node.output[0]: node.name for node in graph.node if node.op_type in PRODUCTS}
    found = []
    for node in graph.node:
        alone = [name for name in node.input if name in products and len(readers[name]) == 1]
        if node.op_type == "Add" and len(alone) == 2 and not any(products[name] in but for name in alone):
            found.append(alone[0])
    return tuple(found)


def scores(graph: Any) -> frozenset[str]:
    """The tensors behind the last products: no product reads them, past whatever other nodes.

    What lies at the end of their ranges is the answer, and nothing after them makes good for cutting it off.
    """
    before: set[str] = set()  # tensors that lead to a product
    for node in reversed(graph.node):
        if node.op_type in PRODUCTS or before.intersection(node.output):
            before.update(node.input)
    return frozenset(name for node in graph.node for name in node.output if name and name not in before)
