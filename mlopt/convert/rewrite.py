"""Rewrites of an ONNX graph that change what it declares, never what it computes for the inputs it took before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from mlopt.signature import Signature

BATCH: Final = "batch"
_COUNTED: Final = re.compile(r"(?P<stem>.*?)__\d+(?P<port>:\d+)?")


def fixed_batch(signature: Signature) -> int | None:
    """The size that leads every input with dimensions, when it is one and the same."""
    leading = {tensor.shape[0] for tensor in signature.inputs if tensor.shape}
    size = next(iter(leading), None)
    return size if len(leading) == 1 and isinstance(size, int) and size > 0 else None


def with_dynamic_batch(model: Any, size: int) -> Any:
    """A copy whose leading dimension is dynamic; Reshapes and Resizes with the batch written into them follow.

    It may be wrong (a leading dimension need not be a batch): the caller runs it and compares.
    """
    copy = _copied(model)
    graph = copy.graph
    shapes = _shapes(model)
    for node in graph.node:
        if node.op_type == "Reshape":
            _reshape(graph, node, size, shapes)
        elif node.op_type == "Resize" and len(node.input) > 3:
            _resize(graph, node, shapes)
    weights = {tensor.name for tensor in graph.initializer}
    for value in graph.input:
        if value.name not in weights and value.type.tensor_type.shape.dim:
            _set(value.type.tensor_type.shape.dim[0], BATCH)
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        if dims and dims[0].dim_value == size:
            _set(dims[0], BATCH)
    del graph.value_info[:]
    return copy


def with_fixed_batch(model: Any, name: str, size: int) -> Any:
    """A copy whose dimensions called `name` have one size."""
    copy = _copied(model)
    for value in (*copy.graph.input, *copy.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            unnamed = not dim.dim_param and not dim.HasField("dim_value")
            if dim.dim_param == name or (unnamed and axis == 0 and name == BATCH):
                dim.Clear()
                dim.dim_value = size
    del copy.graph.value_info[:]
    return copy


def _reshape(graph: Any, node: Any, size: int, shapes: dict[str, list[int]]) -> None:
    wanted = _constant(graph, node.input[1])
    if wanted is None or not wanted or wanted[0] in (0, -1):
        return
    if -1 not in wanted:
        wanted[0] = -1
    elif wanted[0] == size and shapes.get(node.input[0], [0])[0] == size:
        wanted[0] = 0  # as long as the input's first dimension
    else:
        return
    node.input[1] = _integers(graph, f"{node.output[0]}_shape", wanted)


def _resize(graph: Any, node: Any, shapes: dict[str, list[int]]) -> None:
    """Sizes with the batch in them become scales, where these give the same sizes."""
    sizes, before = _constant(graph, node.input[3]), shapes.get(node.input[0])
    if not sizes or not before or len(before) != len(sizes) or 0 in before:
        return
    if any(after % old for after, old in zip(sizes, before, strict=True)):
        return
    import onnx

    name = f"{node.output[0]}_scales"
    scales = [after / old for after, old in zip(sizes, before, strict=True)]
    graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [len(scales)], scales))
    node.input[2] = name
    del node.input[3]


def _constant(graph: Any, name: str) -> list[int] | None:
    import onnx

    for tensor in graph.initializer:
        if tensor.name == name and tensor.data_location != tensor.EXTERNAL:
            return [int(value) for value in onnx.numpy_helper.to_array(tensor).ravel()]
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            for attribute in node.attribute:
                if attribute.name == "value":
                    return [int(value) for value in onnx.numpy_helper.to_array(attribute.t).ravel()]
                if attribute.name == "value_ints":
                    return list(attribute.ints)
    return None


def _integers(graph: Any, name: str, values: list[int]) -> str:
    import onnx

    taken = {tensor.name for tensor in graph.initializer}
    while name in taken:
        name += "_"
    graph.initializer.append(onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [len(values)], values))
    return name


def _shapes(model: Any) -> dict[str, list[int]]:
    """Inferred shapes by value name; 0 for what is not known."""
    import onnx

    copy = _copied(model)
    del copy.graph.value_info[:]
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # a graph that cannot be inferred can still be run, and that decides
        return {}
    return {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }


def _copied(message: Any) -> Any:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _set(dim: Any, name: str) -> None:
    dim.Clear()
    dim.dim_param = name


def canonical(model: Any) -> None:
    """Count generated names anew in the order of the graph, and order weights by their use.

    tf2onnx numbers what it makes in an order that differs from run to run. Changes the model in place.
    """
    kept: set[str] = {value.name for value in (*model.graph.input, *model.graph.output)}
    constants = {tensor.name for graph in _graphs(model.graph) for tensor in graph.initializer}
    names: dict[str, str] = {name: name for name in sorted(kept)}

    def renamed(name: str) -> str:
        if name not in names:
            match = _COUNTED.fullmatch(name)
            # Equal constants are merged under the name of any one of them, so that name says nothing.
            stem = "constant" if name in constants else match and match["stem"]
            new = f"{stem}__{len(names)}{match['port'] or ''}" if match else name
            names[name] = new if new not in kept else f"{new}_"
        return names[name]

    for graph in _graphs(model.graph):
        for node in graph.node:
            node.input[:] = [renamed(name) for name in node.input]
            node.output[:] = [renamed(name) for name in node.output]
            node.name = renamed(node.name)
        for value in (*graph.input, *graph.output, *graph.initializer):
            value.name = renamed(value.name)
        used = {name: order for order, name in enumerate(names.values())}
        weights = sorted((_copied(tensor) for tensor in graph.initializer), key=lambda tensor: used[tensor.name])
        del graph.initializer[:]
        graph.initializer.extend(weights)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph, then those inside its nodes, in the file's order."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
                yield from _graphs(inner)


def without_erfc(model: Any) -> None:
    """Replace Erfc, which no opset has and tf2onnx leaves behind, by 1 - Erf, in place."""
    import onnx

    nodes = []
    for node in model.graph.node:
        if node.op_type != "Erfc" or node.domain:
            nodes.append(node)
            continue
        one, erf = f"{node.output[0]}_one", f"{node.output[0]}_erf"
        nodes.append(onnx.helper.make_node("Constant", [], [one], name=one, value_float=1.0))
        nodes.append(onnx.helper.make_node("Erf", node.input, [erf], name=erf))
        nodes.append(onnx.helper.make_node("Sub", [one, erf], node.output, name=node.name))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
