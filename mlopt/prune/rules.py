"""How channels pass through each operator. What is not here stops them: their class stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.nodes import attribute, constant, groups_of, put, why
from mlopt.prune.shape_rules import SHAPE_RULES

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Axis, Channels

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


def _stop(channels: Channels, node: Any) -> None:
    for name in node.input:
        for axis in channels.of(name) or ():
            channels.freeze(axis, why(node))
    for name in node.output:
        if name in channels.shapes:
            channels.axes[name] = (None,) * len(channels.shapes[name])


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
            channels.unite(labelled[0], axis, why(node))
        if labelled and solid:
            channels.freeze(labelled[0], why(node))
        result.append(labelled[0] if labelled else None)
    return put(channels, node, tuple(result))


def _pool(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    for axis in axes[2:]:
        channels.freeze(axis, why(node))
    return put(channels, node, (*axes[:2], *(None for _ in axes[2:])))


def _per_channel(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None or len(axes) < 2:
        return False
    for name in node.input[1:]:
        parameter = channels.of(name)
        channels.unite(axes[1], parameter[0] if parameter else None, why(node))
    return put(channels, node, axes)


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
            channels.unite(data[1], read, why(node))
    elif read is None and data[1] is not None and made is not None:  # depthwise
        channels.unite(made, data[1].repeat(len(made) // groups), why(node))
    else:
        _tie_groups(channels, node, data[1], read, groups)
        _tie_groups(channels, node, made, None, groups)
    if len(node.input) > 2 and node.input[2]:
        bias = channels.of(node.input[2])
        if made is not None:
            channels.unite(made, bias[0] if bias else None, why(node))
    for axis in (*data[2:], *weight[2:]):
        channels.freeze(axis, why(node))
    return put(channels, node, (data[0], made, *(None for _ in data[2:])))


def _tie_groups(channels: Channels, node: Any, axis: Axis, shared: Axis, groups: int) -> None:
    """All groups of a grouped convolution keep the same positions, so that they stay equal in size."""
    if axis is None:
        channels.freeze(shared, why(node))
        return
    rows = axis.reshape(groups, -1)
    for row in rows[1:]:
        channels.unite(rows[0], row, why(node))
    if shared is not None:
        channels.unite(rows[0], shared, why(node))


def _gemm(channels: Channels, node: Any) -> bool:
    data, weight = channels.of(node.input[0]), channels.of(node.input[1])
    if data is None or weight is None or node.input[1] not in channels.constants:
        return False
    if attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
        return False
    read, made = weight[::-1] if attribute(node, "transB", 0) else weight
    channels.unite(data[1], read, why(node))
    if len(node.input) > 2 and node.input[2]:
        bias, shape = channels.of(node.input[2]), channels.shapes.get(node.input[2])
        if bias is None or shape is None:
            return False
        if bias and shape[-1] != 1 and made is not None:
            channels.unite(made, bias[-1], why(node))
    return put(channels, node, (data[0], made))


def _matmul(channels: Channels, node: Any) -> bool:
    one, other = (channels.of(name) for name in node.input[:2])
    if one is None or other is None or len(one) < 2 or len(other) < 2:
        return False
    if node.input[1] in channels.constants and len(other) == 2:
        channels.unite(one[-1], other[0], why(node))
    else:  # products of activations have no weights that could make up for what is gone
        channels.freeze(one[-1], why(node))
        channels.freeze(other[-2], why(node))
        if len(one) != len(other):
            for axis in (*one[:-2], *other[:-2]):
                channels.freeze(axis, why(node))
        else:  # attention heads: one product each
            for first, second in zip(one[:-2], other[:-2], strict=True):
                if first is not None or second is not None:
                    channels.unite(first, second, why(node))
    leading = one[:-1] if len(one) >= len(other) else (*other[: len(other) - len(one)], *one[:-1])
    return put(channels, node, (*leading, other[-1]))


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
        channels.freeze(axes[position], why(node))
    if attribute(node, "keepdims", 1):
        return put(channels, node, tuple(None if at in gone else axis for at, axis in enumerate(axes)))
    return put(channels, node, tuple(axis for at, axis in enumerate(axes) if at not in gone))


def _softmax(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    # LayerNormalization, and Softmax before opset 13, take all axes from the one named; there the default was 1.
    first = int(attribute(node, "axis", -1 if node.op_type == "LayerNormalization" else min(1, len(axes) - 1)))
    for axis in axes[first % len(axes) :]:
        channels.freeze(axis, why(node))
    for name in node.input[1:]:
        for axis in channels.of(name) or ():
            channels.freeze(axis, why(node))
    return put(channels, node, axes)


_RULES: Final[dict[str, Callable[[Channels, Any], bool]]] = {
    **SHAPE_RULES,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_PER_CHANNEL, _per_channel),
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceSum"), _reduce),
    **dict.fromkeys(("LayerNormalization", "LogSoftmax", "Softmax"), _softmax),
    "Gemm": _gemm,
    "MatMul": _matmul,
}
