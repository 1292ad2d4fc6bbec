"""Depthwise convolutions, which OpenVINO computes as fast in bfloat16 as in int8."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mlopt.onnx_file import readers_of
from mlopt.precision.groups import MOVED, PRODUCTS, Group, shapes_of


def gated(graph: Any) -> tuple[str, ...]:
    """Those, in order, whose result no product reads as it is or after operators of one operand: a gate multiplies it
    first. `graph` is an onnx.GraphProto with shapes inferred."""
    readers, constants = readers_of(graph), {tensor.name for tensor in graph.initializer}

    def product(node: Any, read: str) -> bool:
        """Whether it is one, or hands what it read, and nothing else, to such alone."""
        if node is None or node.op_type in PRODUCTS:
            return node is not None
        return not set(node.input) - constants - {read, ""} and all(map(read_by_products, node.output))

    def read_by_products(result: str) -> bool:
        return result in readers and all(product(node, result) for node in readers[result])

    return tuple(node.name for node in depthwise(graph) if not read_by_products(node.output[0]))


def depthwise(graph: Any) -> list[Any]:
    """The nodes, in order: a channel of its own for each group. One that reads a single channel is none."""
    alone = {tensor.name for tensor in graph.initializer if len(tensor.dims) > 1 == tensor.dims[1]}
    groups = {node.output[0]: entry.i for node in graph.node for entry in node.attribute if entry.name == "group"}
    return [
        node
        for node in graph.node
        if node.op_type == "Conv" and node.input[1] in alone and groups.get(node.output[0], 1) > 1
    ]


def beside_bf16(groups: Sequence[Group], graph: Any) -> tuple[Group, ...]:
    """The same, `work` being what int8 saves where all else computes in bfloat16.

    Of a depthwise convolution that is nothing. But what a product of integers reads of it is written once more where it
    is not in int8 itself.
    """
    shapes, apart = shapes_of(graph), set(gated(graph))
    work = {
        node.name: 0 if node.name in apart else MOVED * math.prod(shapes[node.output[0]]) for node in depthwise(graph)
    }
    return tuple(replace(group, work=work.get(group.name, group.work)) for group in groups)
