"""Each ONNX operator that a .tflite file can hold, as LiteRT has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlopt.tflite.elements import Write, binary, clip, hard_sigmoid, normalization, passed, unary
from mlopt.tflite.flatbuffer import Grid
from mlopt.tflite.graph import LAST, TO_FIRST, TO_LAST, Graph, Node, Value
from mlopt.tflite.windows import activation, bias_of, convolution, pooling, thinned

# LiteRT computes these functions of integers into these grids and no others.
SHARES: Final = Grid(1 / 256, -128)
TANH: Final = Grid(1 / 128, 0)


def product(graph: Graph, node: Node) -> None:
    """FULLY_CONNECTED, for Gemm and for MatMul with weights."""
    read = graph.value(node, node.inputs[0])
    said = node.attributes
    alpha, beta = float(said.get("alpha", 1)), float(said.get("beta", 1))
    if said.get("transA") or len(graph.shape(node, node.inputs[1])) != 2:
        node.refuse("it is no product of values with a matrix of weights")
    name, rows = node.inputs[1], node.kind == "Gemm" and bool(said.get("transB"))
    whole = node.integer or node.hybrid
    matrix = graph.constants[name].array if whole else graph.floats(node, name)
    matrix = matrix if rows else matrix.T
    if whole:
        scale = graph.scales(node, name)
        weights = graph.file.constant(name, matrix, scale=scale, zero=[0] * len(scale))
    else:
        weights = graph.file.constant(name, matrix * matrix.dtype.type(alpha))
    bias = bias_of(graph, node, read, matrix.shape[0], times=beta)
    source = graph.read(read, integer=node.integer)
    made = graph.make(graph.add(node), last=False)
    options = {"fusedActivationFunction": activation(node), "keepNumDims": len(read.shape) > 2}
    graph.file.operator("FULLY_CONNECTED", [source, weights, bias], [made], "FullyConnectedOptions", **options)


def mean(graph: Graph, node: Node) -> None:
    """MEAN, for GlobalAveragePool and ReduceMean."""
    import numpy as np

    read = graph.value(node, node.inputs[0])
    rank = len(read.shape)
    if node.kind == "GlobalAveragePool":
        axes, keep = list(range(2, rank)), True
    else:
        axes = graph.whole(node, 1, "axes") or list(range(rank))
        keep = bool(node.attributes.get("keepdims", 1))
    axes = sorted(axis % rank for axis in axes)
    # Without its picture only a row of channels is left, which is the same in both layouts.
    last = rank == 4 and (keep or axes == [2, 3])
    source = graph.read(read, integer=node.integer, last=last)
    places = sorted(LAST[axis] for axis in axes) if last else axes
    numbers = graph.numbers(f"{node.output}/axes", np.array(places, np.int32))
    made = graph.make(graph.add(node), last=last and keep)
    graph.file.operator("MEAN", [source, numbers], [made], "ReducerOptions", keepDims=keep)


def joined(graph: Graph, node: Node) -> None:
    """CONCATENATION; of integers once all are on one grid."""
    shape = graph.shape(node, node.output)
    axis = int(node.attributes["axis"]) % len(shape)
    values = [graph.value(node, name) for name in node.inputs]
    last = len(shape) == 4 and any(value.last for value in values)
    value = graph.add(node)
    parts = [_on(value.grid, one) if node.integer else one for one in values]
    sources = [graph.read(one, integer=node.integer, last=last) for one in parts]
    made = graph.make(value, last=last)
    graph.file.operator("CONCATENATION", sources, [made], "ConcatenationOptions", axis=LAST[axis] if last else axis)


def reshaped(graph: Graph, node: Node) -> None:
    """RESHAPE, for all that only says the shape anew; the shape is that which shape inference knows."""
    read = graph.value(node, node.inputs[0])
    value = graph.add(node, grid=read.grid)
    if len(value.free) > 1:
        node.refuse("several of its sizes follow the batch")
    source = graph.ordered(read, integer=node.integer)
    graph.reshape(source, graph.make(value, last=False), value.shape, value.free)


def transposed(graph: Graph, node: Node) -> None:
    """TRANSPOSE; none at all between the two layouts of a picture."""
    read = graph.value(node, node.inputs[0])
    rank = len(read.shape)
    order = tuple(node.attributes.get("perm", range(rank)[::-1]))
    value = graph.add(node, grid=read.grid)
    if order in (TO_LAST, TO_FIRST):
        last = order == TO_LAST
        source = graph.read(read, integer=node.integer, last=last)
        value.made[node.integer, not last] = source
        return
    source = graph.read(read, integer=node.integer)
    graph.transpose(source, graph.make(value, last=False), order)


def softmax(graph: Graph, node: Node) -> None:
    """SOFTMAX over the last axis; in float32, unless its integers are what LiteRT makes."""
    read = graph.value(node, node.inputs[0])
    rank = len(read.shape)
    axis = int(node.attributes.get("axis", -1)) % rank
    last = rank == 4 and axis == 1
    if not last and axis != rank - 1:
        node.refuse("it is neither over the last axis nor over channels")
    source = graph.read(read, integer=node.integer, last=last)
    made = graph.make(graph.add(node), last=last)
    graph.file.operator("SOFTMAX", [source], [made], "SoftmaxOptions", beta=1.0)


def padded(graph: Graph, node: Node) -> None:
    """PAD with zeros."""
    import numpy as np

    read = graph.value(node, node.inputs[0])
    rank = len(read.shape)
    pads = graph.whole(node, 1, "pads")
    filled = len(node.inputs) > 2 and node.inputs[2] and graph.floats(node, node.inputs[2]).any()
    plain = node.attributes.get("mode", b"constant") == b"constant" and len(node.inputs) < 4
    if pads is None or min(pads) < 0 or len(pads) != 2 * rank or filled or not plain:
        node.refuse("it does not put zeros around")
    table = np.array([pads[:rank], pads[rank:]], np.int32).T
    last = rank == 4
    source = graph.read(read, integer=node.integer, last=last)
    numbers = graph.numbers(f"{node.output}/pads", table[list(TO_LAST)] if last else table)
    made = graph.make(graph.add(node, grid=read.grid), last=last)
    graph.file.operator("PAD", [source, numbers], [made], "PadOptions")


def sliced(graph: Graph, node: Node) -> None:
    """STRIDED_SLICE, forwards; what is taken whole stays whole whatever its size."""
    import numpy as np

    read = graph.value(node, node.inputs[0])
    rank = len(read.shape)
    starts, ends = graph.whole(node, 1, "starts"), graph.whole(node, 2, "ends")
    if starts is None or ends is None:
        node.refuse("where it begins and ends is not known")
    axes = graph.whole(node, 3, "axes") or list(range(len(starts)))
    steps = graph.whole(node, 4, "steps") or [1] * len(starts)
    table = np.array([[0, size, 1] for size in read.shape], np.int32)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            node.refuse("it goes backwards")
        table[axis] = *slice(start, end).indices(read.shape[axis])[:2], step
    if not read.free <= {axis for axis, row in enumerate(table.tolist()) if row == [0, read.shape[axis], 1]}:
        node.refuse("it takes a part of the batch")
    if rank == 4 and not (table[:, :2] - [[0, size] for size in read.shape]).any() and (table[:2, 2] == 1).all():
        thinned(graph, node, read, (int(table[2, 2]), int(table[3, 2])))
        return
    last = rank == 4 and read.last
    table = table[list(TO_LAST)] if last else table
    shape, _ = read.shaped(last)
    whole = [place for place, row in enumerate(table.tolist()) if row == [0, shape[place], 1]]
    mask = sum(1 << place for place in whole)
    source = graph.read(read, integer=node.integer, last=last)
    places = [
        graph.numbers(f"{node.output}/{name}", column)
        for name, column in zip(("begin", "end", "step"), table.T, strict=True)
    ]
    made = graph.make(graph.add(node, grid=read.grid), last=last)
    graph.file.operator("STRIDED_SLICE", [source, *places], [made], "StridedSliceOptions", beginMask=mask, endMask=mask)


def _on(grid: Grid | None, value: Value) -> Value:
    return value if value.grid == grid else Value(f"{value.name}/again", value.shape, value.free, grid, rounded=value)


WRITERS: Final[Mapping[str, Write]] = {
    "Conv": convolution,
    **dict.fromkeys(("MaxPool", "AveragePool"), pooling),
    **dict.fromkeys(("Gemm", "MatMul"), product),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), binary),
    **dict.fromkeys(("Relu", "Clip"), clip),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), mean),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), reshaped),
    **dict.fromkeys(("Identity", "Dropout"), passed),
    "BatchNormalization": normalization,
    "Concat": joined,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": unary("HARD_SWISH", "HardSwishOptions"),
    "LeakyRelu": unary("LEAKY_RELU", "LeakyReluOptions"),
    "Pad": padded,
    "Sigmoid": unary("LOGISTIC", only=SHARES),
    "Slice": sliced,
    "Softmax": softmax,
    "Tanh": unary("TANH", only=TANH),
    "Transpose": transposed,
}
