"""An ONNX graph run by torch, so that gradients reach its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.nodes import attribute, groups_of

if TYPE_CHECKING:
    import torch

    Operator = Callable[[Any, Sequence[Any]], Any]
    Hook = Callable[[Any, Any], Any]


class NoGradient(Exception):
    """There is no rule here for an operator; `node` is the first that has it."""

    def __init__(self, node: Any) -> None:
        super().__init__(f"node {node.name} ({node.op_type})")


def answers(
    model: Any,
    values: Mapping[str, torch.Tensor],
    feed: Mapping[str, torch.Tensor],
    hook: Hook = lambda node, written: written,
) -> list[torch.Tensor]:
    """The outputs of an onnx.ModelProto; `values` are its initializers. What `hook` gives stands for what a node
    writes. Raises `NoGradient`."""
    known: dict[str, Any] = {**values, **feed}
    for node in model.graph.node:
        rule = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if rule is None:
            raise NoGradient(node)
        known[node.output[0]] = hook(node, rule(node, [known[name] if name else None for name in node.input]))
    return [known[value.name] for value in model.graph.output]


def _conv(node: Any, inputs: Sequence[Any]) -> Any:
    from torch.nn import functional

    data, weight, *bias = inputs
    spatial = weight.ndim - 2
    strides, dilations = (list(attribute(node, name, [1] * spatial)) for name in ("strides", "dilations"))
    data = _padded(node, data, weight.shape[2:], strides, dilations, 0.0)
    kind = (functional.conv1d, functional.conv2d, functional.conv3d)[spatial - 1]
    return kind(data, weight, bias[0] if bias else None, strides, 0, dilations, groups_of(node))


def _padded(
    node: Any, data: Any, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], fill: float
) -> Any:
    from torch.nn import functional

    spatial = len(kernel)
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    pads = list(attribute(node, "pads", [0] * 2 * spatial)) if auto == "NOTSET" else [0] * 2 * spatial
    if auto.startswith("SAME"):
        for axis, (size, taps) in enumerate(zip(data.shape[2:], kernel, strict=True)):
            reach = dilations[axis] * (taps - 1) + 1
            missing = max(0, ((size + strides[axis] - 1) // strides[axis] - 1) * strides[axis] + reach - size)
            few, many = missing // 2, missing - missing // 2
            pads[axis], pads[axis + spatial] = (few, many) if auto == "SAME_UPPER" else (many, few)
    flat = [pads[axis + side] for axis in reversed(range(spatial)) for side in (0, spatial)]
    return functional.pad(data, flat, value=fill) if any(flat) else data


def _max_pool(node: Any, inputs: Sequence[Any]) -> Any:
    from torch.nn import functional

    kernel = list(attribute(node, "kernel_shape", []))
    strides, dilations = (list(attribute(node, name, [1] * len(kernel))) for name in ("strides", "dilations"))
    if len(kernel) != 2:
        raise NoGradient(node)
    data = _padded(node, inputs[0], kernel, strides, dilations, float("-inf"))
    return functional.max_pool2d(data, kernel, strides, 0, dilations, bool(attribute(node, "ceil_mode", 0)))


def _average_pool(node: Any, inputs: Sequence[Any]) -> Any:
    from torch.nn import functional

    kernel = list(attribute(node, "kernel_shape", []))
    strides = list(attribute(node, "strides", [1] * len(kernel)))
    if len(kernel) != 2 or any(attribute(node, "pads", [])) or attribute(node, "ceil_mode", 0):
        raise NoGradient(node)
    return functional.avg_pool2d(inputs[0], kernel, strides)


def _gemm(node: Any, inputs: Sequence[Any]) -> Any:
    data, weight, *bias = inputs
    data = data.T if attribute(node, "transA", 0) else data
    made = attribute(node, "alpha", 1.0) * (data @ (weight.T if attribute(node, "transB", 0) else weight))
    return made + attribute(node, "beta", 1.0) * bias[0] if bias else made


def _clip(node: Any, inputs: Sequence[Any]) -> Any:
    import torch

    low, high = ([*inputs[1:], None, None])[:2]
    data = inputs[0] if low is None else torch.maximum(inputs[0], low)
    return data if high is None else torch.minimum(data, high)


def _reshape(node: Any, inputs: Sequence[Any]) -> Any:
    data, wanted = inputs[0], inputs[1].tolist()
    return data.reshape([data.shape[axis] if size == 0 else size for axis, size in enumerate(wanted)])


def _pad(node: Any, inputs: Sequence[Any]) -> Any:
    from torch.nn import functional

    if attribute(node, "mode", b"constant") != b"constant" or (len(inputs) > 3 and inputs[3] is not None):
        raise NoGradient(node)
    pads, rank = inputs[1].tolist(), inputs[0].ndim
    flat = [pads[axis + side] for axis in reversed(range(rank)) for side in (0, rank)]
    return functional.pad(inputs[0], flat, value=float(inputs[2]) if len(inputs) > 2 and inputs[2] is not None else 0.0)


def _slice(node: Any, inputs: Sequence[Any]) -> Any:
    starts, ends = inputs[1].tolist(), inputs[2].tolist()
    axes = inputs[3].tolist() if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = inputs[4].tolist() if len(inputs) > 4 else [1] * len(starts)
    if min(steps) < 1:
        raise NoGradient(node)
    index = [slice(None)] * inputs[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    return inputs[0][tuple(index)]


def _mean(node: Any, inputs: Sequence[Any]) -> Any:
    axes = attribute(node, "axes", None)
    axes = inputs[1].tolist() if axes is None and len(inputs) > 1 else axes
    if not axes:
        raise NoGradient(node)
    return inputs[0].mean(tuple(axes), keepdim=bool(attribute(node, "keepdims", 1)))


def _softmax(node: Any, inputs: Sequence[Any]) -> Any:
    axis = int(attribute(node, "axis", -1))
    if axis not in (-1, inputs[0].ndim - 1):  # before opset 13 an axis in the middle meant all from there on
        raise NoGradient(node)
    return inputs[0].softmax(-1)


def _concat(node: Any, inputs: Sequence[Any]) -> Any:
    import torch

    return torch.cat(list(inputs), int(attribute(node, "axis", 0)))


def _transpose(node: Any, inputs: Sequence[Any]) -> Any:
    return inputs[0].permute(*attribute(node, "perm", list(reversed(range(inputs[0].ndim)))))


def _hard_sigmoid(node: Any, inputs: Sequence[Any]) -> Any:
    return (attribute(node, "alpha", 0.2) * inputs[0] + attribute(node, "beta", 0.5)).clamp(0, 1)


OPERATORS: Final[Mapping[str, Operator]] = {
    "Add": lambda node, inputs: inputs[0] + inputs[1],
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": lambda node, inputs: inputs[0] / inputs[1],
    "Dropout": lambda node, inputs: inputs[0],
    "Flatten": lambda node, inputs: inputs[0].flatten(int(attribute(node, "axis", 1))),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda node, inputs: inputs[0].mean(tuple(range(2, inputs[0].ndim)), keepdim=True),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda node, inputs: inputs[0] * (inputs[0] / 6 + 0.5).clamp(0, 1),
    "Identity": lambda node, inputs: inputs[0],
    "MatMul": lambda node, inputs: inputs[0] @ inputs[1],
    "MaxPool": _max_pool,
    "Mul": lambda node, inputs: inputs[0] * inputs[1],
    "Pad": _pad,
    "ReduceMean": _mean,
    "Relu": lambda node, inputs: inputs[0].relu(),
    "Reshape": _reshape,
    "Sigmoid": lambda node, inputs: inputs[0].sigmoid(),
    "Slice": _slice,
    "Softmax": _softmax,
    "Sub": lambda node, inputs: inputs[0] - inputs[1],
    "Tanh": lambda node, inputs: inputs[0].tanh(),
    "Transpose": _transpose,
}
