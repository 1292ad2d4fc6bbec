"""Borders between int8 and floating point, and what numbers cost that pass them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from mlopt.onnx_file import readers_of
from mlopt.precision.activations import PASSING
from mlopt.precision.groups import MOVED, PRODUCTS, owners_of, shapes_of

_CONVERTED: Final = 2 * MOVED  # ONNX Runtime rounds and lays out numbers in passes of their own
_FLOAT: Final = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True, slots=True)
class Border:
    """A tensor of `size` numbers per sample that is handed on as integers from the group of `writer` to those of
    `readers`, where all of them are quantized; `writer` is "" where floating-point numbers are written in any case. To
    make an integer of a number costs `narrowing`, to make it a floating-point number again `widening`, in the units of
    `Group.work`."""

    size: int
    writer: str
    readers: frozenset[str]
    narrowing: int
    widening: int

    @property
    def groups(self) -> frozenset[str]:
        return self.readers | {self.writer}

    def cost(self, kept: Collection[str]) -> int:
        """What its numbers cost that pass it, with these groups in floating point; once, however many read them."""
        if not self.writer or self.writer in kept:
            return 0 if self.readers.issubset(kept) else self.size * self.narrowing
        return 0 if self.readers.isdisjoint(kept) else self.size * self.widening


def borders_of(
    graph: Any, operators: Collection[str], *, outputs: bool, floating: Collection[str] = ()
) -> tuple[Border, ...]:
    """In the graph's order; `graph` is an onnx.GraphProto with shapes inferred and names for all nodes, `operators` and
    `outputs` as in `Qdq`, and nodes in `floating` stay in floating point whatever is kept.

    Without `outputs` products alone make and read integers, and one that reads them writes floating-point numbers as
    fast: only what a kept product writes for another that reads integers is written once more.
    """
    owners, shapes, readers = owners_of(graph, operators), shapes_of(graph), readers_of(graph)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    narrowing, widening = (_CONVERTED, _CONVERTED) if outputs else (MOVED, 0)

    def integers(node: Any) -> bool:
        return node.op_type in operators and (outputs or node.op_type in PRODUCTS)

    def reading(name: str) -> Iterator[tuple[str, str]]:
        """Groups that read the tensor as integers, past what hands it on, and as which tensor each does."""
        ahead = [name]
        for one in ahead:  # which grows
            for node in readers.get(one, ()):
                if node is not None and integers(node):
                    if node.name not in floating:
                        yield owners[node.name], one
                elif node is not None and node.op_type in PASSING:
                    ahead += [output for output in node.output if output not in ahead]

    found = []
    for node in graph.node:
        if not integers(node) or node.name not in owners:
            continue
        own = owners[node.name]
        for name in node.output:
            read = {group: tensor for group, tensor in reading(name) if group != own or node.name in floating}
            if read and kinds.get(name, _FLOAT) == _FLOAT:
                # A pooling on the way leaves fewer numbers to convert; joined to others they are no more.
                size = min(
                    math.prod(shapes.get(name, ())), max(math.prod(shapes.get(one, ())) for one in read.values())
                )
                writer = "" if node.name in floating else own
                found.append(Border(size, writer, frozenset(read), narrowing, widening))
    return tuple(found)
