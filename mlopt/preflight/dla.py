"""What a DLA would compute of a graph by its documented layers and sizes, and which nodes fall back to the GPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mlopt.onnx_file import attributes_of
from mlopt.signature import walk
from mlopt.tensorrt import DlaLimit, facts

_FREE: Final = frozenset({"Cast", "Constant", "Identity", "Shape"})  # nothing that a unit computes
_GLOBAL: Final = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
_BATCH, _LARGEST = 4096, 8192  # of the first dimension, and of every other
_NAMED: Final = 6  # nodes that fall back and are named; the others are counted

Shapes = Mapping[str, tuple[int, ...]]


def on_dla(model: Any) -> str:
    """How much of the graph a DLA would compute, and what falls back to the GPU, node by node with the reason."""
    nodes = [node for node in walk(model.graph) if node.op_type not in _FREE]
    if any(node.op_type == "QuantizeLinear" for node in nodes):
        return "DLA: none of it, whose int8 is not that of quantized models; give it the model in fp16"
    shapes = _shapes(model)
    back = [(node, reason) for node in nodes if (reason := _why_not(node, shapes))]
    said = f"DLA: by its lists and sizes {len(nodes) - len(back)} of {len(nodes)} nodes, in fp16 at fixed shapes"
    if not back:
        return said
    named = [f"{node.op_type} {node.name or node.output[0]} ({reason})" for node, reason in back[:_NAMED]]
    more = f" and {len(back) - _NAMED} more" if len(back) > _NAMED else ""
    return f"{said}; back to the GPU: {', '.join(named)}{more}"


def _why_not(node: Any, shapes: Shapes) -> str:
    """The first thing that a DLA does not take of this node; empty when nothing is known against it."""
    if node.op_type not in facts().dla:
        return "no layer of a DLA"
    limits = (limit for limit in facts().dla_limits if node.op_type in limit.operators)
    reasons = (*_dimensions(node, shapes), *(reason for limit in limits for reason in _beyond(node, limit, shapes)))
    return next(iter(reasons), "")


def _dimensions(node: Any, shapes: Shapes) -> Iterator[str]:
    """A free dimension counts as one that somebody fixes."""
    for name in (*node.input, *node.output):
        shape = shapes.get(name, ())
        if shape and shape[0] > _BATCH:
            yield f"batch {shape[0]}, at most {_BATCH}"
        for size in shape[1:]:
            if size > _LARGEST:
                yield f"a dimension of {size}, at most {_LARGEST}"


def _beyond(node: Any, limit: DlaLimit, shapes: Shapes) -> Iterator[str]:
    said = attributes_of(node)
    whole = shapes.get(node.input[0], ())[2:]
    weight = shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
    kernel = tuple(said.get("kernel_shape") or (whole if node.op_type in _GLOBAL else weight[2:]))
    padding = tuple(said.get("pads") or ())
    if len(kernel) not in (0, 2):
        yield f"{len(kernel)}-dimensional, and a DLA's is 2"
    yield from _over("window" if limit.padding == 7 else "kernel", kernel, limit.kernel)
    yield from _over("stride", said.get("strides") or (), limit.stride)
    yield from _over("dilation", said.get("dilations") or (), limit.dilation)
    yield from _over("padding", padding, limit.padding)
    if limit.padding_below_kernel and any(pad >= size for pad, size in zip(padding, kernel * 2, strict=False)):
        yield f"padding {_sizes(padding)}, which is to be less than the kernel {_sizes(kernel)}"
    if not limit.groups and said.get("group", 1) > 1:
        yield f"{said['group']} groups, and a DLA's has one"
    axis = said.get("axis", limit.axis)
    if axis is not None and axis < 0:  # counted from the end
        axis += len(shapes.get(node.input[0], ()))
    if limit.axis is not None and axis != limit.axis:
        yield f"axis {axis}, and a DLA's is {limit.axis}"
    if limit.windows and said.get("size") not in limit.windows:
        yield f"window {said.get('size')}, one of {', '.join(map(str, limit.windows))}"


def _over(what: str, sizes: Sequence[int], most: int | None) -> Iterator[str]:
    if most is not None and any(size > most for size in sizes):
        yield f"{what} {_sizes(sizes)}, at most {most}"


def _sizes(sizes: Sequence[int]) -> str:
    return "×".join(map(str, sizes))


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """By the name of a value; 0 is a free dimension."""
    graph = model.graph
    known = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
