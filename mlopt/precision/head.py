"""The head of a net, where integers lose time: convolutions so short that converting costs more than multiplying."""

from __future__ import annotations

import math
from typing import Any

from mlopt.precision.groups import PRODUCTS


def short_head(graph: Any, shortest: int) -> tuple[str, ...]:
    """The nodes, in order, that come before the first product whose dot products have `shortest` terms or more.

    An image's first layers have few channels and many pixels. Integer kernels work on blocks of channels and convert
    every pixel, so that a mobile net's first convolutions (27 terms, then 9 in the depthwise one) take twice their
    time in float32. A node belongs to the head when all that it computes from does. Empty where fewer than two
    convolutions do: a single one costs less than a border in the middle of large pictures. `graph` is an
    onnx.GraphProto in topological order.
    """
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    reached = {value.name for value in graph.input} | set(weights) | {""}
    head, products = [], 0
    for node in graph.node:
        if not set(node.input) <= reached:
            continue
        if node.op_type in PRODUCTS:
            if node.op_type != "Conv" or math.prod(weights.get(node.input[1], (shortest,))[1:]) >= shortest:
                continue
            products += 1
        reached.update(node.output)
        head.append(node.name)
    return tuple(head) if products > 1 else ()
