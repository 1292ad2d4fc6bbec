"""How channels pass through each operator. What is not here stops them: their class stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Axes, Axis, Channels

# fmt: off
_ELEMENTWISE: Final = (
    "Abs", "Add", "Cast", "Ceil", "Celu", "Clip", "Cos", "Div", "Dropout", "Elu", "Erf", "Exp", "Floor",
    "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Mean", "Min", "Mish", "Mul",
    "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign",
    "Sqrt", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu",
)
# fmt: on
_POOLS: Final = ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool")
_PER_CHANNEL: Final = ("BatchNormalization", "InstanceNormalization")
_SCALARS: Final = {"Clip": 1, "Dropout": 1}  # operators of which only the first inputs carry channels


def apply(channels: Channels, node: Any) -> None:
    """Label the outputs of a node from its inputs, and unite or freeze what it ties together."""
    rule = _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    labelled = rule(channels, node) if rule else False
    if not labelled:
        _stop(channels, node)


def attribute(node: Any, name: str, default: Any) -> Any:
    """The value of a node's attribute, or the default."""
    import onnx

    found = next((entry for entry in node.attribute if entry.name == name), None)
    return default if found is None else onnx.helper.get_attribute_value(found)


def groups_of(node: Any) -> int:
    """Of a convolution."""
    return int(attribute(node, "group", 1))


def constant(channels: Channels, name: str) -> np.ndarray | None:
    """The values of an initializer, None for anything else."""
    import onnx

    tensor = channels.constants.get(name)
    return None if tensor is None else onnx.numpy_helper.to_array(tensor)


def _why(node: Any) -> str:
    return f"node {node.name} ({node.op_type})"


def _stop(channels: Channels, node: Any) -> None:
    for name in node.input:
        for axis in channels.of(name) or ():
            channels.freeze(axis, _why(node))
    for name in node.output:
        if name in channels.shapes:
            channels.axes[name] = (None,) * len(channels.shapes[name])


def _put(channels: Channels, node: Any, axes: Axes) -> bool:
    channels.axes[node.output[0]] = axes
    for name in node.output[1:]:  # masks and indices: as large as the first, and read by nobody that is known here
        if name:
            channels.axes[name] = axes
            for axis in axes:
                channels.freeze(axis, _why(node))
    return True


def _elementwise(channels: Channels, node: Any) -> bool:
    names = [name for name in node.input[: _SCALARS.get(node.op_type, len(node.input))] if name]
    known = [channels.of(name) for name in names]
    if any(axes is None for axes in known):
        return False
    inputs = [(axes, channels.shapes.get(name, ())) for name, axes in zip(names, known, strict=True) if axes]
    rank = max((len(axes) for axes, _ in inputs), default=0)
    result: list[Axis] = []
    for back in range(rank, 0, -1):
        labelled: list[np.ndarray] = []
        solid = False
        for axes, shape in inputs:
            if len(axes) < back:
                continue
            axis = axes[-back]
            if axis is not None:
                labelled.append(axis)
            elif len(shape) != len(axes) or shape[-back] != 1:
                solid = True
        for axis in labelled[1:]:
            channels.unite(labelled[0], axis, _why(node))
        if labelled and solid:
            channels.freeze(labelled[0], _why(node))
        result.append(labelled[0] if labelled else None)
    return _put(channels, node, tuple(result))


def _pool(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    for axis in axes[2:]:
        channels.freeze(axis, _why(node))
    return _put(channels, node, (*axes[:2], *(None for _ in axes[2:])))


def _per_channel(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None or len(axes) < 2:
        return False
    for name in node.input[1:]:
        parameter = channels.of(name)
        channels.unite(axes[1], parameter[0] if parameter else None, _why(node))
    return _put(channels, node, axes)


def _conv(channels: Channels, node: Any) -> bool:
    data, weight = channels.of(node.input[0]), channels.of(node.input[1])
    if data is None or weight is None or node.input[1] not in channels.constants:
        return False
    turned = node.op_type == "ConvTranspose"
    groups = groups_of(node)
    if turned and groups > 1:
        return False
    made, read = (weight[1], weight[0]) if turned else (weight[0], weight[1])
    if groups == 1:
        if data[1] is not None or read is not None:
            channels.unite(data[1], read, _why(node))
    elif read is None and data[1] is not None and made is not None:  # depthwise
        channels.unite(made, data[1].repeat(len(made) // groups), _why(node))
    else:
        _tie_groups(channels, node, data[1], read, groups)
        _tie_groups(channels, node, made, None, groups)
    if len(node.input) > 2 and node.input[2]:
        bias = channels.of(node.input[2])
        if made is not None:
            channels.unite(made, bias[0] if bias else None, _why(node))
    for axis in (*data[2:], *weight[2:]):
        channels.freeze(axis, _why(node))
    return _put(channels, node, (data[0], made, *(None for _ in data[2:])))


def _tie_groups(channels: Channels, node: Any, axis: Axis, shared: Axis, groups: int) -> None:
    """All groups of a grouped convolution keep the same positions, so that they stay equal in size."""
    if axis is None:
        channels.freeze(shared, _why(node))
        return
    rows = axis.reshape(groups, -1)
    for row in rows[1:]:
        channels.unite(rows[0], row, _why(node))
    if shared is not None:
        channels.unite(rows[0], shared, _why(node))


def _gemm(channels: Channels, node: Any) -> bool:
    data, weight = channels.of(node.input[0]), channels.of(node.input[1])
    if data is None or weight is None or node.input[1] not in channels.constants:
        return False
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return False
    read, made = weight[::-1] if attribute(node, "transB", 0) else weight
    channels.unite(data[1], read, _why(node))
    if len(node.input) > 2 and node.input[2]:
        bias, shape = channels.of(node.input[2]), channels.shapes.get(node.input[2])
        if bias is None or shape is None:
            return False
        if bias and shape[-1] != 1 and made is not None:
            channels.unite(made, bias[-1], _why(node))
    return _put(channels, node, (data[0], made))


def _matmul(channels: Channels, node: Any) -> bool:
    one, other = (channels.of(name) for name in node.input[:2])
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return False
    if node.input[1] in channels.constants and len(other) == 2:
        channels.unite(one[-1], other[0], _why(node))
    else:  # products of activations have no weights that could make up for what is gone
        channels.freeze(one[-1], _why(node))
        channels.freeze(other[-2], _why(node))
        for axis in (*one[:-2], *other[:-2]):
            channels.freeze(axis, _why(node))
    leading = one[:-1] if len(one) >= len(other) else (*other[: len(other) - len(one)], *one[:-1])
    return _put(channels, node, (*leading, other[-1]))


def _concat(channels: Channels, node: Any) -> bool:
    import numpy as np

    known = [channels.of(name) for name in node.input]
    if any(axes is None or len(axes) != len(known[0] or ()) for axes in known):
        return False
    inputs = [axes for axes in known if axes is not None]
    at = int(attribute(node, "axis", 0)) % len(inputs[0])
    result: list[Axis] = []
    for position in range(len(inputs[0])):
        parts = [axes[position] for axes in inputs]
        if position != at:
            for part in parts[1:]:
                if part is not None or parts[0] is not None:
                    channels.unite(parts[0], part, _why(node))
            result.append(parts[0])
            continue
        joined = [
            part if part is not None else _held(channels, node, name, at)
            for part, name in zip(parts, node.input, strict=True)
        ]
        whole = [part for part in joined if part is not None]
        if len(whole) == len(joined) and any(part is not None for part in parts):
            result.append(np.concatenate(whole))
        else:
            for part in parts:
                channels.freeze(part, _why(node))
            result.append(None)
    return _put(channels, node, tuple(result))


def _held(channels: Channels, node: Any, name: str, axis: int) -> Axis:
    """Labels that stay, for a part of a joined axis that has none. None when its size is not known."""
    shape = channels.shapes.get(name)
    size = shape[axis] if shape else None
    if size is None:
        return None
    labels = channels.fresh(size)
    channels.freeze(labels, _why(node))
    return labels


def _split(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    at = int(attribute(node, "axis", 0)) % len(axes)
    start = 0
    for name in node.output:
        axis = axes[at]
        shape = channels.shapes.get(name)
        if axis is not None:
            size = shape[at] if shape else None
            if size is None or len(node.input) < 2 or node.input[1] not in channels.constants:
                return False
            axis = axis[start : start + size]
            start += size
        channels.axes[name] = (*axes[:at], axis, *axes[at + 1 :])
    return True


def _slice(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    named = constant(channels, node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if named is None:
        return False
    cut = {int(axis) % len(axes) for axis in named}
    for position in cut:
        channels.freeze(axes[position], _why(node))
    return _put(channels, node, tuple(None if position in cut else axis for position, axis in enumerate(axes)))


def _pad(channels: Channels, node: Any) -> bool:
    import numpy as np

    axes = channels.of(node.input[0])
    pads = constant(channels, node.input[1]) if len(node.input) > 1 else None
    if axes is None or pads is None or (len(node.input) > 3 and node.input[3]):
        return False
    result: list[Axis] = []
    for position, axis in enumerate(axes):
        before, after = int(pads[position]), int(pads[position + len(axes)])
        if axis is None or not (before or after):
            result.append(axis)
        elif min(before, after) < 0 or attribute(node, "mode", b"constant") != b"constant":
            channels.freeze(axis, _why(node))
            result.append(None)
        else:
            result.append(np.concatenate([channels.fresh(before), axis, channels.fresh(after)]))
    return _put(channels, node, tuple(result))


def _transpose(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    order = attribute(node, "perm", list(reversed(range(len(axes)))))
    return _put(channels, node, tuple(axes[position] for position in order))


def _reduce(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    named = attribute(node, "axes", None)
    if named is None and len(node.input) > 1 and node.input[1]:
        values = constant(channels, node.input[1])
        named = None if values is None else values.tolist()
    if axes is None or not named:
        return False
    gone = {int(axis) % len(axes) for axis in named}
    for position in gone:
        channels.freeze(axes[position], _why(node))
    if attribute(node, "keepdims", 1):
        return _put(channels, node, tuple(None if at in gone else axis for at, axis in enumerate(axes)))
    return _put(channels, node, tuple(axis for at, axis in enumerate(axes) if at not in gone))


def _softmax(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    # LayerNormalization, and Softmax before opset 13, take all axes from the one named; there the default was 1.
    first = int(attribute(node, "axis", -1 if node.op_type == "LayerNormalization" else min(1, len(axes) - 1)))
    for axis in axes[first % len(axes) :]:
        channels.freeze(axis, _why(node))
    for name in node.input[1:]:
        for axis in channels.of(name) or ():
            channels.freeze(axis, _why(node))
    return _put(channels, node, axes)


def _reshape(channels: Channels, node: Any) -> bool:
    """Flatten, Reshape, Squeeze, Unsqueeze: axes of size 1 come and go, trailing axes join; nothing else moves."""
    axes, shape = channels.of(node.input[0]), channels.shapes.get(node.input[0])
    made = channels.shapes.get(node.output[0])
    if axes is None or shape is None or made is None or len(axes) != len(shape):
        return False
    if all(axis is None for axis in axes):
        return _put(channels, node, (None,) * len(made))
    if shape.count(None) > 1:  # what the one loses, the other could win
        return False
    if node.op_type == "Reshape" and node.input[1] not in channels.constants and not _ends_free(channels, node):
        return False
    before = [(size, axis) for size, axis in zip(shape, axes, strict=True) if size != 1]
    after = [position for position, size in enumerate(made) if size != 1]
    result: list[Axis] = [None] * len(made)
    shared = len(after)
    if len(before) != len(after):
        shared -= 1  # the last one joins what is left
        sizes = [size for size, _ in before[shared:]]
        if shared < 0 or len(before) < len(after) or None in sizes:
            return False
        joined = math.prod(size for size in sizes if size)
        if made[after[-1]] != joined or any(axis is not None for _, axis in before[shared + 1 :]):
            return False
        axis = before[shared][1]
        result[after[-1]] = None if axis is None else axis.repeat(joined // len(axis))
    for position, (size, axis) in zip(after[:shared], before[:shared], strict=True):
        if made[position] != size:
            return False
        result[position] = axis
    return _put(channels, node, tuple(result))


def _ends_free(channels: Channels, node: Any) -> bool:
    """Whether a shape that is computed ends in a constant -1, so that it fits whatever is left there."""
    maker = channels.makers.get(node.input[1])
    if maker is None or maker.op_type != "Concat":
        return False
    last = constant(channels, maker.input[-1])
    made = channels.shapes.get(node.output[0], ())
    return last is not None and last.tolist() == [-1] and len(maker.input) == len(made) == 2


def _shape(channels: Channels, node: Any) -> bool:
    """A shape tells the sizes of all axes; harmless where only those are looked at that stay."""
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    asked: set[int] = set(range(len(axes)))
    readers = channels.readers.get(node.output[0], [])
    if readers and not any(value.name == node.output[0] for value in channels.graph.output):
        picked = [constant(channels, reader.input[1]) for reader in readers if reader.op_type == "Gather"]
        if len(picked) == len(readers) and all(values is not None for values in picked):
            first = int(attribute(node, "start", 0))
            asked = {
                (int(one) + first) % len(axes) for values in picked if values is not None for one in values.ravel()
            }
    for position in asked:
        channels.freeze(axes[position], _why(node))
    return _put(channels, node, (None,))


def _resize(channels: Channels, node: Any) -> bool:
    axes, shape = channels.of(node.input[0]), channels.shapes.get(node.input[0])
    made = channels.shapes.get(node.output[0])
    sizes = node.input[3] if len(node.input) > 3 else ""
    if axes is None or shape is None or made is None or sizes or attribute(node, "axes", None):
        return False
    for axis, before, after in zip(axes, shape, made, strict=True):
        if before != after or before is None:
            channels.freeze(axis, _why(node))
    return _put(channels, node, axes)


_RULES: Final[dict[str, Callable[[Channels, Any], bool]]] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_PER_CHANNEL, _per_channel),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceSum"), _reduce),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "Softmax"), _softmax),
    "Concat": _concat,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Pad": _pad,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
