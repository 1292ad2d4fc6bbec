"""Pairs where integers are handed on: before poolings and transpositions, and none where values are on that grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import drop_unread, readers_of, rewrite

Grid = tuple[float, int, int]
"""Scale, zero-point, and the zero-point's type in ONNX."""

_MOVED: Final = ("MaxPool", "Transpose")  # which are better done to bytes
_HANDING_ON: Final = ("Concat", *_MOVED)  # each value that they write is one that they read


@dataclass(frozen=True, slots=True)
class TidyPairs:
    """Move pairs that read a MaxPool or a Transpose before it, and drop those that round to the grid of their values.

    Neither changes an answer: rounding keeps order, so that it does not matter whether the largest is rounded or the
    largest of the rounded is taken; and what is on a grid is rounded to itself. OpenVINO, which computes a convolution,
    its activation and the rounding in one kernel, then writes bytes that poolings and concatenations hand on, where it
    wrote floating point four times that size (the placement of pairs that NNCF has in its files too).
    """

    name: ClassVar[str] = "tidy-pairs"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx")

    def run(self, source: Artifact, into: Path) -> None:
        rewrite(source.main, into / "model.onnx", lambda model: _tidy(model.graph))


def _tidy(graph: Any) -> bool:
    """Whether anything was moved or dropped."""
    moved = False
    while _moved(graph):  # until nothing stands before which a pair can go
        moved = True
    return _without_repetitions(graph) > 0 or moved


def _moved(graph: Any) -> bool:
    """Moves pairs that are all that reads such a node, where that reads values on no grid; whether there were any."""
    grids, readers = _grids(graph), readers_of(graph)
    nodes: list[Any] = []
    gone: set[str] = set()  # what the pairs wrote that were moved
    for node in graph.node:
        pair = _pair_behind(node, readers) if node.op_type in _MOVED and node.input[0] not in grids else None
        if pair and pair[1].output[0] in grids:  # one scale for all channels
            nodes += _swapped(node, *pair)
            gone.update(one.output[0] for one in pair)
        elif node.output[0] not in gone:
            nodes.append(node)
    if gone:
        _keep(graph, nodes)
    return bool(gone)


def _pair_behind(node: Any, readers: Mapping[str, Sequence[Any]]) -> tuple[Any, Any] | None:
    """The pair that is all that reads it; None where there is another reader, the graph's output and indices among
    them."""
    behind: list[Any] = []
    for kind in ("QuantizeLinear", "DequantizeLinear"):
        output = behind[-1].output[0] if behind else node.output[0]
        following = readers.get(output, [])
        if len(following) != 1 or following[0] is None or following[0].op_type != kind:
            return None
        behind.append(following[0])
    return (behind[0], behind[1]) if len(node.output) == 1 else None


def _swapped(node: Any, quantize: Any, dequantize: Any) -> tuple[Any, Any, Any]:
    """The three with `node` last. What the pair writes before it keeps the names of what was between them."""
    from onnx import NodeProto

    copies = []
    for one, read, written in (
        (quantize, node.input[0], quantize.output[0]),
        (dequantize, quantize.output[0], node.output[0]),
        (node, node.output[0], dequantize.output[0]),
    ):
        copy = NodeProto()
        copy.CopyFrom(one)
        copy.input[0], copy.output[0] = read, written
        copies.append(copy)
    return copies[0], copies[1], copies[2]


def _without_repetitions(graph: Any) -> int:
    """Drops the pairs whose values are on their grid already, and counts them."""
    grids, readers = _grids(graph), readers_of(graph)
    read = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    instead: dict[str, str] = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = instead.get(name, name)
        if node.op_type != "DequantizeLinear" or node.input[0] not in read:
            continue
        made = node.output[0]
        value = instead.get(read[node.input[0]], read[node.input[0]])
        plain = all(reader and made in reader.input for reader in readers.get(made, []))  # no output, no sub-graph
        if plain and value in grids and grids[value] == grids.get(made):
            instead[made] = value
    if instead:
        _keep(graph, [node for node in graph.node if node.output[0] not in instead])
    return len(instead)


def _keep(graph: Any, nodes: Sequence[Any]) -> None:
    """These nodes alone, without conversions that nothing reads; shapes that were inferred are no longer said."""
    del graph.node[:]
    graph.node.extend(nodes)
    readers = readers_of(graph)
    kept = [node for node in graph.node if node.op_type != "QuantizeLinear" or node.output[0] in readers]
    del graph.node[:]
    graph.node.extend(kept)
    del graph.value_info[:]
    drop_unread(graph)


def _grids(graph: Any) -> dict[str, Grid]:
    """By tensor the grid on which all its values are."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    grids: dict[str, Grid] = {}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 3 and constants.keys() >= {*node.input[1:]}:
            scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:])
            if scale.size == zero.size == 1:
                grids[node.output[0]] = (float(scale.item()), int(zero.item()), constants[node.input[2]].data_type)
        elif node.op_type in _HANDING_ON:
            read = {grids.get(name) for name in node.input}
            if len(read) == 1 and (grid := read.pop()):
                grids[node.output[0]] = grid
    return grids
