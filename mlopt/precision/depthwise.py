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
    """The nodes, in order."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    shapes = ((node, weights.get(node.input[1], ())) for node in graph.node if node.op_type == "Conv")
    return [node for node, shape in shapes if shape and shape[0] > 1 == shape[1]]


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
