"""How wide a model's layers are, and what that costs: before pruning and after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlopt.artifact import Artifact
from mlopt.steps.quantizer import prepared

if TYPE_CHECKING:
    from mlopt.prune.channels import Channels


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with weights: how many channels it makes, and why none of them could go, if none could."""

    name: str
    before: int
    after: int
    stays: str


@dataclass(frozen=True, slots=True)
class Size:
    """Multiply-accumulates per sample, and weights."""

    work: int
    parameters: int


def followed(model: Artifact) -> Channels:
    """As the step sees it, batch normalisation folded."""
    from mlopt.prune.channels import follow

    with prepared(model, optimize=True) as graph:
        return follow(graph)


def size_of(channels: Channels) -> Size:
    from mlopt.prune.cells import products_of

    parameters = sum(math.prod(tensor.dims) for tensor in channels.constants.values() if tensor.data_type == 1)
    return Size(sum(product.work(()) for product in products_of(channels)), parameters)


def layers_of(whole: Channels, narrow: Channels) -> Iterator[Layer]:
    """Those that both have, by the node's name."""
    from mlopt.prune.cells import stopped

    before, stays = _widths(whole), stopped(whole)
    for name, width in _widths(narrow).items():
        if name in before:
            yield Layer(name, before[name], width, stays.get(name, ""))


def _widths(channels: Channels) -> Mapping[str, int]:
    """Channels that each product makes, by the node's name."""
    found = {}
    for node in channels.graph.node:
        shape = channels.shapes.get(node.output[0]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        width = shape[1 if node.op_type == "Conv" else -1] if shape else None
        if width is not None:
            found[node.name] = width
    return found
