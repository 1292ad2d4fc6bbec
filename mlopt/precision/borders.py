"""Borders between int8 and floating point, and what numbers cost that pass them."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from mlopt.onnx_file import readers_of
from mlopt.precision.activations import PASSING
from mlopt.precision.groups import MOVED, PRODUCTS, owners_of, shapes_of

_CONVERTED: Final = 2 * MOVED  # ONNX Runtime rounds and lays out numbers in passes of their own


@dataclass(frozen=True, slots=True)
class Border:
    """A tensor of `size` numbers per sample that is handed on as integers from the group of `writer` to those of
    `readers`, where all of them are quantized. To make integers of a number costs `narrowed`, to make it a
    floating-point number again `widened`, in the units of `Group.work`."""

    size: int
    writer: str
    readers: frozenset[str]
    narrowed: int
    widened: int

    @property
    def groups(self) -> frozenset[str]:
        return self.readers | {self.writer}

    def cost(self, kept: Collection[str]) -> int:
        """What its numbers cost that pass it, with these groups in floating point; once, however many read them."""
        if self.writer in kept:
            return 0 if self.readers.issubset(kept) else self.size * self.narrowed
        return 0 if self.readers.isdisjoint(kept) else self.size * self.widened


def borders_of(graph: Any, operators: Collection[str], *, outputs: bool) -> tuple[Border, ...]:
    """In the graph's order; `graph` is an onnx.GraphProto with shapes inferred, `operators` and `outputs` as in `Qdq`.

    Without `outputs` products alone make and read integers, and one that reads them writes floating-point numbers as
    fast: only what a kept product writes for another that reads integers is written once more.
    """
    owners, shapes, readers = owners_of(graph, operators), shapes_of(graph), readers_of(graph)
    makers = {name: node for node in graph.node for name in node.output}

    def integers(node: Any) -> bool:
        return node is not None and node.op_type in operators and (outputs or node.op_type in PRODUCTS)

    def made(name: str) -> bool:
        """Whether integers are, past what hands them on."""
        node = makers.get(name)
        while node is not None and not integers(node) and node.op_type in PASSING:
            node = makers.get(node.input[0])
        return integers(node)

    narrowed, widened = (_CONVERTED, _CONVERTED) if outputs else (MOVED, 0)
    found = []
    for name, node in makers.items():
        if node.name in owners and made(name):
            writer = owners[node.name]
            reading = {owners[one.name] for one in readers.get(name, ()) if integers(one)} - {writer}
            if reading:
                size = math.prod(shapes.get(name, ()))
                found.append(Border(size, writer, frozenset(reading), narrowed, widened))
    return tuple(found)
