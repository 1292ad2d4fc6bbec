"""A graph in groups that are quantized or kept together: one matrix product or convolution, and what follows it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

PRODUCTS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Multiply-accumulates that take as long as one number that is read or written and little else (13 to 19 for the weights
# of MobileNets' last layers in OpenVINO and ONNX Runtime: docs/decisions/57-what-int8-saves.md).
MOVED: Final = 16


@dataclass(frozen=True, slots=True)
class Group:
    """`name` is the leading node's. `nodes` are those that would be quantized; `work` is multiply-accumulates plus
    elements written, and what the weights of its products take in such, per sample: what the group costs, in no unit of
    time. `weights` is how many constants it reads.
    """

    name: str
    nodes: tuple[str, ...]
    work: int
    weights: int = 0


def names_of(groups: Iterable[Group]) -> list[str]:
    """Of all their nodes."""
    return [name for group in groups for name in group.nodes]


def name_nodes(graph: Any) -> None:
    """Give nodes without a name, or with one that an earlier node has, a name of their own."""
    taken = {node.name for node in graph.node}
    seen: set[str] = {""}
    for number, node in enumerate(graph.node):
        if node.name in seen:
            name = node.name or f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)


def groups_of(graph: Any, operators: Collection[str]) -> tuple[Group, ...]:
    """The groups in the order of the graph. Every node whose operator is in `operators` is in exactly one.

    A node between two products belongs to the later-born of the groups that it reads from, so that keeping a group
    in floating point moves one border of the integer region and makes no island in its middle.
    """
    shapes, owners = shapes_of(graph), owners_of(graph, operators)
    constants = {tensor.name for tensor in graph.initializer}
    members: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.name in owners:
            members.setdefault(owners[node.name], []).append(node)
    return tuple(_grouped(members, operators, shapes, constants))


def owners_of(graph: Any, operators: Collection[str]) -> dict[str, str]:
    """The leading node's name of the group of each node that is in one, by its own."""
    constants = {tensor.name for tensor in graph.initializer}
    leaders: list[str] = []
    born: dict[str, int] = {}
    found: dict[str, str] = {}
    for node in graph.node:
        before = [born[name] for name in node.input if name in born]
        if node.op_type in PRODUCTS and node.op_type in operators:
            leaders.append(node.name)
            number = len(leaders) - 1
        elif before:
            number = max(before)
        elif any(name not in constants and name for name in node.input):
            # What touches the input before any product does.
            leaders = leaders or [node.name]
            number = 0
        else:
            continue
        found[node.name] = leaders[number]
        born |= dict.fromkeys(node.output, number)
    return found


def _grouped(
    members: dict[str, list[Any]],
    operators: Collection[str],
    shapes: dict[str, tuple[int, ...]],
    constants: set[str],
) -> Iterator[Group]:
    for leader, nodes in members.items():
        quantized = tuple(node.name for node in nodes if node.op_type in operators)
        if quantized:
            read = constants.intersection(name for node in nodes for name in node.input)
            weights = sum(math.prod(shapes[name]) for name in read)
            yield Group(leader, quantized, sum(_work(node, shapes, constants) for node in nodes), weights)


def _work(node: Any, shapes: dict[str, tuple[int, ...]], constants: set[str]) -> int:
    written = sum(math.prod(shapes.get(name, ())) for name in node.output if name)
    if node.op_type not in PRODUCTS:
        return written
    weight = shapes.get(node.input[1], ())
    moved = written + (MOVED * math.prod(weight) if node.input[1] in constants else 0)
    if node.op_type == "Conv":
        return moved + written * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return moved + math.prod(shapes.get(node.input[0], ())) * math.prod(weight[1:])
    inner = shapes.get(node.input[0], (1,))
    turned = any(entry.name == "transA" and entry.i for entry in node.attribute)
    return moved + written * (inner[0] if turned else inner[-1])


def shapes_of(graph: Any) -> dict[str, tuple[int, ...]]:
    """Sizes by name; a dimension that is not known counts as one, which is one sample for the batch."""
    shapes = {
        value.name: tuple(max(1, dim.dim_value) for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
