"""Transposed factors of products in two movements: whole rows first, then the last two axes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import attributes_of, load_graph, readers_of, save

_SCALING: Final = ("Mul", "Div")


@dataclass(frozen=True, slots=True)
class SplitTransposes:
    """Where a product reads, second, what was transposed so that the last axis comes before another one: transpose the
    others first, and the last two by themselves right before the product, past a multiplication by one number.

    Keys of attention lie as [batch, tokens, heads, size] and are multiplied as [batch, heads, size, tokens]. Done at
    once, every number moves alone, which takes OpenVINO a third of the attention's own time. Of the two the first moves
    rows, and the second is nothing: its product reads a second factor either way. No answer changes.
    """

    name: ClassVar[str] = "split-transposes"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    def run(self, source: Artifact, into: Path) -> None:
        model = load_graph(source.main)
        _split(model.graph)
        save(model, into, beside=source.main.parent)


def _split(graph: Any) -> None:
    from onnx import helper

    readers, numbers = readers_of(graph), {tensor.name for tensor in graph.initializer if not tensor.dims}
    makers = {name: node for node in graph.node for name in node.output}
    swaps: dict[str, Any] = {}  # by the product that it goes before
    for product in graph.node:
        factor = product.input[1] if product.op_type == "MatMul" else ""
        turn = _turned(factor, makers, readers, numbers)
        if turn is None:
            continue
        *others, low, high = axes = attributes_of(turn)["perm"]
        plain = [*others, high, low]
        if low != len(axes) - 1 or (plain == sorted(plain) and turn.output[0] == factor):
            continue  # no row is torn, or it is that swap alone and where it should be
        turn.ClearField("attribute")
        turn.attribute.append(helper.make_attribute("perm", plain))
        swap = [*range(len(others)), len(axes) - 1, len(axes) - 2]
        name = f"{factor}_swapped_for_{product.output[0]}"
        swaps[product.output[0]] = helper.make_node("Transpose", [factor], [name], name=name, perm=swap)
        product.input[1] = name
    if swaps:
        nodes = [node for one in graph.node for node in (swaps.get(one.output[0]), one) if node is not None]
        del graph.node[:]
        graph.node.extend(nodes)
        del graph.value_info[:]  # what lies between has other shapes now


def _turned(
    factor: str, makers: Mapping[str, Any], readers: Mapping[str, Sequence[Any]], numbers: set[str]
) -> Any | None:
    """The transposition that a product's factor comes from, for it alone, scaled by numbers or not."""
    while (node := makers.get(factor)) is not None and len(readers[factor]) == 1:
        if node.op_type == "Transpose":
            return node if len(attributes_of(node).get("perm", ())) > 1 else None
        scaled = [name for name in node.input if name not in numbers]
        if node.op_type not in _SCALING or len(scaled) != 1 or (node.op_type == "Div" and scaled[0] != node.input[0]):
            return None
        factor = scaled[0]
    return None
