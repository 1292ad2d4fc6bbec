"""A graph without some of its channels: weights cut, and what names sizes corrected."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from mlopt.prune.nodes import attribute, constant

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Axis, Channels


def with_biases(model: Any) -> None:
    """Give every Conv and Gemm with constant weights a bias, so that there is room for the mean of what goes."""
    import numpy as np
    import onnx

    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if node.op_type in ("Conv", "Gemm") else None
        if weight is None or (len(node.input) > 2 and node.input[2]):
            continue
        made = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
        name = f"{node.name}.bias"
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(weight.dims[made], dtype), name))
        del node.input[2:]
        node.input.append(name)


def cut(model: Any, channels: Channels, gone: Collection[int], weights: Mapping[str, np.ndarray]) -> Any:
    """A copy of the model that `channels` was made from, without the classes in `gone`.

    `weights` replace initializers by name, in the shape that they have after the cut.
    """
    import numpy as np
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    inputs = [value for value in copy.graph.input if value.name not in channels.constants]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)  # old models list their weights there too, with their sizes
    for tensor in copy.graph.initializer:
        if tensor.name in weights:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights[tensor.name].astype(dtype), tensor.name))
            continue
        stays = [kept(channels, axis, gone) for axis in channels.axes.get(tensor.name, ())]
        if any(stay is not None and not stay.all() for stay in stays):
            values = onnx.numpy_helper.to_array(tensor)
            for position, stay in enumerate(stays):
                values = values if stay is None else values.compress(stay, axis=position)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    for node in copy.graph.node:
        _correct(copy.graph, node, channels, gone)
    return copy


def kept(channels: Channels, axis: Axis, gone: Collection[int]) -> np.ndarray | None:
    """Which positions of an axis stay, as booleans; None for an axis without labels."""
    import numpy as np

    if axis is None:
        return None
    return ~np.isin(channels.roots(axis), list(gone))


def _correct(graph: Any, node: Any, channels: Channels, gone: Collection[int]) -> None:
    """What a node says in numbers about the sizes of its channels."""
    import numpy as np

    made = channels.axes.get(node.output[0], ())
    if node.op_type == "Conv" and attribute(node, "group", 1) > 1:
        read, weight = channels.of(node.input[0]), channels.of(node.input[1])
        if read is not None and weight is not None and weight[1] is None:  # depthwise: a group for each channel
            left = kept(channels, read[1], gone)
            if left is not None:
                next(entry for entry in node.attribute if entry.name == "group").i = int(left.sum())
    elif node.op_type == "Reshape" and (shape := constant(channels, node.input[1])) is not None:
        sizes = (
            [
                size if (left := kept(channels, axis, gone)) is None or size < 1 else left.sum()
                for size, axis in zip(shape.tolist(), made, strict=True)
            ]
            if len(made) == len(shape)
            else shape.tolist()
        )
        _own(graph, node, 1, np.array(sizes, np.int64), shape)
    elif node.op_type == "Pad" and len(node.input) > 1 and (pads := constant(channels, node.input[1])) is not None:
        amounts = pads.copy()
        for position, axis in enumerate(made):
            left = kept(channels, axis, gone)
            if left is not None:
                before, after = int(pads[position]), int(pads[position + len(made)])
                amounts[position] = left[:before].sum()
                amounts[position + len(made)] = left[len(left) - after :].sum()
        _own(graph, node, 1, amounts, pads)
    elif node.op_type == "Split" and len(node.input) > 1 and (split := constant(channels, node.input[1])) is not None:
        at = int(attribute(node, "axis", 0)) % max(1, len(made))
        parts = [kept(channels, channels.axes[name][at], gone) for name in node.output if name in channels.axes]
        if len(parts) == len(split):
            sizes = [size if left is None else left.sum() for size, left in zip(split.tolist(), parts, strict=True)]
            _own(graph, node, 1, np.array(sizes, np.int64), split)


def _own(graph: Any, node: Any, position: int, values: np.ndarray, before: np.ndarray) -> None:
    """An initializer of the node's own in place of one that other nodes may share, where the values differ."""
    import onnx

    if values.tolist() == before.tolist():
        return
    name = f"{node.name}.{position}"
    graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    node.input[position] = name
