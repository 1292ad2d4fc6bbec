"""Depthwise convolutions, which OpenVINO computes as fast in bfloat16 as in int8."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from mlopt.onnx_file import attributes_of, readers_of
from mlopt.precision.activations import PASSING
from mlopt.precision.groups import PRODUCTS, Group


def gated(graph: Any, operators: Container[str]) -> tuple[str, ...]:
    """Those, in order, whose result no product of integers reads, as it is or handed on by poolings, ReLUs and the
    like: a gate, a sum or a normalisation computes with it first. `operators` are those that compute on integers.
    `graph` is an onnx.GraphProto with shapes inferred."""
    readers, mine = readers_of(graph), {node.name for node in depthwise(graph)}
    found: set[str] = set()

    def by_products(result: str) -> bool:
        return all(map(product, readers[result]))

    def product(node: Any) -> bool:
        """Whether it is one, or hands what it reads to such alone."""
        if node is None or node.name in found:
            return False
        handed = [name for name in node.output if name in readers]
        return (node.op_type in PRODUCTS and node.op_type in operators) or (
            node.op_type in PASSING and bool(handed) and all(map(by_products, handed))
        )

    for node in reversed(graph.node):  # what reads a result is known before what makes it
        if node.name in mine and not (node.output[0] in readers and by_products(node.output[0])):
            found.add(node.name)
    return tuple(node.name for node in graph.node if node.name in found)


def depthwise(graph: Any) -> list[Any]:
    """The nodes, in order: a channel of its own for each group. One that reads a single channel is none."""
    alone = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 == tensor.dims[1]}
    read = (node for node in graph.node if node.op_type == "Conv" and node.input[1] in alone)
    return [node for node in read if attributes_of(node).get("group", 1) > 1]


def beside_bf16(groups: Sequence[Group], graph: Any) -> tuple[Group, ...]:
    """The same, `work` being what int8 saves where all else computes in bfloat16: nothing of depthwise convolutions."""
    names = {node.name for node in depthwise(graph)}
    return tuple(replace(group, work=0) if group.name in names else group for group in groups)
