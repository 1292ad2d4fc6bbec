"""Channels in cells: those that are in the same axes and take each other's place, with the numbers that may be kept."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.nodes import attribute

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Channels

_WIDTHS: Final = 64  # of a cell that are considered
_PRODUCTS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True)
class Consumer:
    """A group of a convolution, or a matrix product: it mixes the channels that it reads, so its weights can make up
    for those that are gone. `number` is the group's. `roots` are the classes of its inputs, in their order."""

    node: Any
    number: int
    roots: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.node.name}/{self.number}"


@dataclass(frozen=True, slots=True)
class Cell:
    """`roots` are classes of channels that could take each other's place; each is `step` positions or a part of it.

    `kept` are the numbers that may stay, falling, the first is all. `name` is a node that makes the channels.
    """

    name: str
    roots: tuple[int, ...]
    kept: tuple[int, ...]
    consumers: tuple[Consumer, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """What a convolution or matrix product costs: `factor` times the kept positions of its weight's axes."""

    node: Any
    factor: int
    axes: tuple[np.ndarray | int, ...]

    def work(self, gone: Collection[int]) -> int:
        """Multiply-accumulates per sample."""
        return self.factor * math.prod(
            axis if isinstance(axis, int) else sum(int(root) not in gone for root in axis) for axis in self.axes
        )


def consumers_of(channels: Channels) -> tuple[Consumer, ...]:
    """In the order of the graph: every product with constant weights, whether what it reads can be cut or not."""
    found = []
    for node in channels.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in channels.constants:
            continue
        weight = channels.of(node.input[1])
        assert weight is not None
        shape = channels.shapes[node.input[1]]
        if node.op_type == "Conv":
            groups, axis = int(attribute(node, "group", 1)), weight[1]
            if shape[1] == 1 and groups > 1:
                continue
        else:
            if len(shape) != 2:
                continue
            groups, axis = 1, weight[1 if node.op_type == "Gemm" and attribute(node, "transB", 0) else 0]
        if axis is not None:
            roots = channels.roots(axis)
            found += [Consumer(node, number, roots) for number in range(groups)]
    return tuple(found)


def products_of(channels: Channels) -> tuple[Product, ...]:
    """Every convolution and matrix product with constant weights, with what it costs."""
    found = []
    for node in channels.graph.node:
        if node.op_type not in _PRODUCTS or node.input[1] not in channels.constants:
            continue
        weight, shape = channels.of(node.input[1]), channels.shapes[node.input[1]]
        assert weight is not None
        # A transposed convolution does its work for each position that it reads, the others for each that they write.
        tensor = channels.shapes.get(node.input[0] if node.op_type == "ConvTranspose" else node.output[0], ())
        where = tensor[2:] if node.op_type.startswith("Conv") else tensor[1:-1]
        axes = tuple(
            channels.roots(axis) if axis is not None else (size or 1) for axis, size in zip(weight, shape, strict=True)
        )
        found.append(Product(node, math.prod(size or 1 for size in where), axes))
    return tuple(found)


def cells_of(channels: Channels, multiple: int) -> tuple[Cell, ...]:
    """Every cell with a choice, in the order of the graph: widths that are kept are multiples of `multiple`."""
    where: dict[int, Counter[tuple[str, int]]] = {}
    for name, axes in channels.axes.items():
        for position, axis in enumerate(axes):
            for root in () if axis is None else channels.roots(axis).tolist():
                where.setdefault(root, Counter())[name, position] += 1
    makers = _makers(channels)
    consumers = consumers_of(channels)
    read: dict[int, list[int]] = {}
    for number, consumer in enumerate(consumers):
        for root in set(consumer.roots.tolist()):
            read.setdefault(root, []).append(number)
    columns = _columns(channels)
    cells: dict[tuple[tuple[tuple[str, int], int], ...], list[int]] = {}
    for root in sorted(where):
        if root in makers and root in read and channels.frozen(root) is None:
            cells.setdefault(tuple(sorted(where[root].items())), []).append(root)
    found = []
    for signature, roots in cells.items():
        positions = math.gcd(*(count for place, count in signature if place in columns))
        step = multiple // math.gcd(multiple, positions)
        while len(roots) // step > _WIDTHS:
            step *= 2
        kept = (len(roots), *range((len(roots) - 1) // step * step, 0, -step))
        if len(kept) > 1:
            found.append(
                Cell(makers[roots[0]], tuple(roots), kept, tuple(consumers[number] for number in read[roots[0]]))
            )
    return tuple(found)


def stopped(channels: Channels) -> Mapping[str, str]:
    """For each product whose outputs must all stay: its name, and because of what."""
    found = {}
    for node in channels.graph.node:
        roots = _made(channels, node)
        reasons = [channels.frozen(root) for root in roots]
        if roots and all(reasons):
            found[node.name] = str(reasons[0])
    return found


def _makers(channels: Channels) -> dict[int, str]:
    """By class, the first product that makes it."""
    makers: dict[int, str] = {}
    for node in channels.graph.node:
        for root in _made(channels, node):
            makers.setdefault(root, node.name)
    return makers


def _columns(channels: Channels) -> set[tuple[str, int]]:
    """The axes of activations whose sizes decide which kernels run: those that products read and write."""
    found = set()
    for node in channels.graph.node:
        if node.op_type in _PRODUCTS and node.input[1] in channels.constants:
            for name in (node.input[0], node.output[0]):
                rank = len(channels.of(name) or ())
                found.add((name, 1 if node.op_type.startswith("Conv") else rank - 1))
    return found


def _made(channels: Channels, node: Any) -> list[int]:
    if node.op_type not in _PRODUCTS or node.input[1] not in channels.constants:
        return []
    axes = channels.of(node.output[0]) or (None,)
    axis = axes[1] if node.op_type.startswith("Conv") and len(axes) > 1 else axes[-1]
    return [] if axis is None else channels.roots(axis).tolist()
