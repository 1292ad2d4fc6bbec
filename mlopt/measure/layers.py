"""From a runtime's kernels to the nodes of the ONNX file: what was fused into what, and how much work it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from mlopt.insight import Kernel, Layer
from mlopt.measure.work import Graph, is_conversion


def layers_of(kernels: Sequence[Kernel], graph: Graph) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """A layer for each kernel, in their order, and the nodes that none of them stands for.

    A kernel stands for the nodes that its anchors name, and for what leads to them from the nodes of other kernels and
    the inputs: a runtime that fuses a convolution with its activation names but one of them.
    """
    anchored: list[frozenset[int]] = []
    taken: set[int] = set()
    for kernel in kernels:
        own = frozenset(_anchors(kernel, graph)) - taken
        taken |= own
        anchored.append(own)
    ran = {number for own in anchored if len(own) == 1 for number in own if is_conversion(graph.nodes[number])}
    groups: list[set[int]] = []
    for kernel, own in zip(kernels, anchored, strict=True):
        group = set(own)
        if kernel.arithmetic == "int8":
            group |= set(_rounded(own, graph)) - taken
        taken |= group
        groups.append(group)
    for group in groups:
        led = set(_leading(group, graph, taken))
        group |= led
        taken |= led
    silent = tuple(graph.label(number) for number in range(len(graph.nodes)) if number not in taken)
    return tuple(_layer(kernel, group, graph, ran) for kernel, group in zip(kernels, groups, strict=True)), silent


def _anchors(kernel: Kernel, graph: Graph) -> Iterator[int]:
    for anchor in kernel.anchors:
        for names in (graph.named, graph.makers):
            if anchor in names:
                yield names[anchor]


def _rounded(own: Collection[int], graph: Graph) -> Iterator[int]:
    """The conversions to int8 right after: a kernel on integers writes integers."""
    for number in own:
        for name in graph.nodes[number].output:
            readers = graph.readers.get(name, [])
            if len(readers) == 1 and readers[0] is not None and readers[0].op_type == "QuantizeLinear":
                yield graph.makers[readers[0].output[0]]


def _leading(group: Collection[int], graph: Graph, taken: Collection[int]) -> Iterator[int]:
    """The nodes before these that are no other kernel's."""
    seen = set(group)
    ahead = list(group)
    while ahead:
        for name in graph.nodes[ahead.pop()].input:
            maker = graph.makers.get(name)
            if maker is not None and maker not in seen and maker not in taken:
                seen.add(maker)
                ahead.append(maker)
                yield maker


def _layer(kernel: Kernel, group: Collection[int], graph: Graph, ran: Collection[int]) -> Layer:
    numbers = sorted(group)
    counts = [graph.operations(number) for number in numbers]
    return Layer(
        nodes=tuple(graph.label(number) for number in numbers),
        operators=tuple(str(graph.nodes[number].op_type) for number in numbers),
        kernel=kernel.kind,
        arithmetic=kernel.arithmetic,
        seconds=kernel.seconds,
        operations=None if not numbers or None in counts else sum(count for count in counts if count is not None),
        bytes=graph.bytes(numbers, ran) if numbers else None,
    )
