"""Activations that are special: attention and idle joints, which some runtimes get in floating point; what is added to
each other; what normalisations write; and scores."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from mlopt.onnx_file import readers_of
from mlopt.precision.groups import PRODUCTS

_JOINTS: Final = frozenset({"AveragePool", "Concat", "GlobalAveragePool", "MaxPool"})
# Hands a tensor on, integers included, to whatever reads it next.
PASSING: Final = _JOINTS | {
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
        elif node.op_type in PASSING and reaching.intersection(node.output):
            reaching.update(node.input)
    return tuple(node.name for node in graph.node if node.op_type in _JOINTS and not reaching.intersection(node.output))


def inputs(graph: Any) -> frozenset[str]:
    """The tensors that come from outside, transposed or not."""
    found = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in found:
            found.update(node.output)
    return frozenset(found)


def convolved(graph: Any) -> frozenset[str]:
    """What convolutions read; of matrix products a zero-point can be made good for beforehand."""
    return frozenset(node.input[0] for node in graph.node if node.op_type in ("Conv", "ConvTranspose"))


def summed(graph: Any, *, but: Container[str] = ()) -> tuple[str, ...]:
    """What products write that a runtime adds to integers, where it does so in the product's kernel if both are on a
    grid: of two products that are added to each other the first one's output, and what a convolution alone adds to a
    tensor that another product reads, as a ResNet's blocks do.

    A kernel adds to its product what was computed before, and rounds the sum. The other product's output then lies in
    between in memory: as integers in a quarter of the bytes. Products named in `but` are in floating point.
    """
    readers = readers_of(graph)
    products = {node.output[0]: node for node in graph.node if node.op_type in PRODUCTS and node.name not in but}
    read = {name for node in products.values() for name in node.input[:1]}
    found = []
    for node in graph.node:
        alone = [name for name in node.input if name in products and len(readers[name]) == 1]
        beside = [name for name in node.input if name not in alone]
        into = len(alone) == 1 and products[alone[0]].op_type == "Conv" and read.issuperset(beside)
        if node.op_type == "Add" and (len(alone) == 2 or into):
            found.append(alone[0])
    return tuple(found)


def normalised(graph: Any) -> frozenset[str]:
    """What normalisations of the last axis write: LayerNormalization as one node, or the multiplication and addition of
    vectors that it ends with."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 1 and tensor.dims[0] > 1}
    makers = {name: node for node in graph.node for name in node.output}

    def scaled(node: Any) -> bool:
        """A multiplication by a vector of what no product wrote: behind a product it is a scale of that."""
        others = [makers.get(name) for name in node.input if name not in vectors]
        return node.op_type == "Mul" and len(others) == 1 and not (others[0] and others[0].op_type in PRODUCTS)

    found = {node.output[0] for node in graph.node if node.op_type == "LayerNormalization"}
    for node in graph.node:
        read = [makers[name] for name in node.input if name in makers]
        if node.op_type == "Add" and len(read) == 1 and vectors.intersection(node.input) and scaled(read[0]):
            found.add(node.output[0])
    return frozenset(found)


def unrounded(quantized: Any, tensors: Container[str], rounding: Container[str]) -> None:
    """Let what computes in floating point read these of `tensors` as they were before their pairs, in place.

    A quantizer puts a pair behind a tensor for everything that reads it. Nets that normalise after their sums (BERT)
    add what a normalisation wrote to the next block's answer: rounded to integers there, each block's errors stay in
    that sum for all blocks after it. `rounding` are the names of the nodes that compute on integers.
    """
    pairs = {node.output[0]: node.input[0] for node in quantized.node if node.op_type == "QuantizeLinear"}
    before = {
        node.output[0]: pairs[node.input[0]]
        for node in quantized.node
        if node.op_type == "DequantizeLinear" and pairs.get(node.input[0]) in tensors
    }
    for node in quantized.node:
        for place, name in enumerate(node.input):
            if name in before and node.name not in rounding:
                node.input[place] = before[name]


def scores(graph: Any) -> frozenset[str]:
    """The tensors behind the last products: no product reads them, past whatever other nodes.

    What lies at the end of their ranges is the answer, and nothing after them makes good for cutting it off.
    """
    before: set[str] = set()  # tensors that lead to a product
    for node in reversed(graph.node):
        if node.op_type in PRODUCTS or before.intersection(node.output):
            before.update(node.input)
    return frozenset(name for node in graph.node for name in node.output if name and name not in before)
