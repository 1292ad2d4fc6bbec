"""Activations that are special: attention and idle joints, which some runtimes get in floating point; and scores."""

from __future__ import annotations

from typing import Any, Final

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


def scores(graph: Any) -> frozenset[str]:
    """The tensors behind the last products: no product reads them, past whatever other nodes.

    What lies at the end of their ranges is the answer, and nothing after them makes good for cutting it off.
    """
    before: set[str] = set()  # tensors that lead to a product
    for node in reversed(graph.node):
        if node.op_type in PRODUCTS or before.intersection(node.output):
            before.update(node.input)
    return frozenset(name for node in graph.node for name in node.output if name and name not in before)
