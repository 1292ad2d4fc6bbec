"""The opposite of pruning: channels of zeros, where a kernel is slow because their number does not fill its blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.channels import follow
from mlopt.prune.nodes import attribute

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Channels

# What leaves a channel of zeros without effect on the others, and without a number that names how many there are.
_HARMLESS: Final = frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "GlobalAveragePool", "HardSigmoid", "HardSwish",
    "LeakyRelu", "MaxPool", "Mul", "PRelu", "ReduceMean", "Relu", "Sigmoid",
})  # fmt: skip


def widen(model: Any, *, multiple: int, most: float) -> Any:
    """A copy in which depthwise convolutions have a multiple of `multiple` channels; None where there is nothing to do.

    Channels whose weights are all zero are added at the end wherever those of the convolution go, so that every answer
    stays as it is. Only where they are at most the part `most` of what there is, and where nothing else, such as a
    concatenation or the graph's output, holds the number of channels. `model` is an onnx.ModelProto with shapes
    inferred and nodes named.
    """
    import onnx

    channels = follow(model)
    added: dict[tuple[int, ...], int] = {}
    for node in model.graph.node:
        roots = _depthwise(channels, node)
        missing = -len(roots) % multiple
        if missing and missing <= most * len(roots) and _free(channels, roots):
            added[roots] = missing
    if not added:
        return None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for tensor in copy.graph.initializer:
        axes = channels.axes.get(tensor.name, ())
        extra = [added.get(_roots(channels, axis), 0) for axis in axes]
        if any(extra):
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(_padded(values, extra), tensor.name))
    for node in copy.graph.node:
        if missing := added.get(_depthwise(channels, node), 0):
            next(entry for entry in node.attribute if entry.name == "group").i += missing
    return copy


def _depthwise(channels: Channels, node: Any) -> tuple[int, ...]:
    """The classes of its channels; empty for any other node."""
    if node.op_type != "Conv" or node.input[1] not in channels.constants:
        return ()
    weight = channels.of(node.input[1])
    single = channels.shapes[node.input[1]][1] == 1
    if weight is None or weight[0] is None or not single or attribute(node, "group", 1) != len(weight[0]):
        return ()
    return _roots(channels, weight[0])


def _roots(channels: Channels, axis: np.ndarray | None) -> tuple[int, ...]:
    return () if axis is None else tuple(channels.roots(axis).tolist())


def _free(channels: Channels, roots: tuple[int, ...]) -> bool:
    """Whether these channels are all there is of every axis that they are in, and only harmless nodes see them."""
    mine = set(roots)
    if len(mine) < len(roots) or any(channels.frozen(root) for root in mine):
        return False
    holders = set()
    for name, axes in channels.axes.items():
        for axis in axes:
            found = _roots(channels, axis)
            if mine.isdisjoint(found):
                continue
            if found != roots:
                return False
            holders.add(name)
    seen = [node for name in holders for node in (channels.makers.get(name), *channels.readers.get(name, ())) if node]
    return all(node.op_type in _HARMLESS for node in seen)


def _padded(values: np.ndarray, extra: list[int]) -> np.ndarray:
    import numpy as np

    return np.pad(values, [(0, more) for more in extra])
