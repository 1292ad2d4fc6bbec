"""What a convolution or matrix product reads and writes, as rows: one for each position where its weights are used."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt.prune.nodes import attribute
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    import numpy as np


@contextmanager
def tensors(model: Any, names: Sequence[str], scratch: Path) -> Iterator[Any]:
    """A function from a feed to the values of these tensors, by name; only what they need of the model is run."""
    import onnx

    inputs = {value.name for value in model.graph.input}
    part = _part(model, [name for name in names if name not in inputs])
    path = scratch / "part.onnx"
    onnx.save(part, str(path))
    wanted = [value.name for value in part.graph.output]
    with OnnxRuntimeRunner(path, threads=1) as runner:
        path.unlink()

        def values(feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            given = {value.name: feed[value.name] for value in part.graph.input}
            return {**feed, **dict(zip(wanted, runner.infer(given), strict=True))}

        yield values if wanted else dict


def _part(model: Any, names: Sequence[str]) -> Any:
    """The nodes, weights and inputs that these tensors are made from, with them as outputs."""
    import onnx

    needed, nodes = set(names), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            nodes.append(node)
            needed.update(node.input)
            for entry in node.attribute:
                needed.update(name for graph in (entry.g, *entry.graphs) for one in graph.node for name in one.input)
    part = onnx.ModelProto()
    part.ir_version = model.ir_version
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(nodes))
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in needed)
    part.graph.input.extend(value for value in model.graph.input if value.name in needed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    return part


def picked(node: Any, shape: Sequence[int], read: np.ndarray, *, most: int, seed: int) -> np.ndarray:
    """At most so many positions of one query at which the node writes, the same for the same seed and sizes."""
    import numpy as np

    total = math.prod(_places(node, shape, read))
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng([seed, total]).choice(total, most, replace=False))


def read_rows(node: Any, shape: Sequence[int], read: np.ndarray, number: int, where: np.ndarray) -> np.ndarray:
    """[positions, inputs] float32: what the weights of group `number` are multiplied with there.

    `shape` is the weight's. Inputs are in the order of the weight: channel, then place in the kernel.
    """
    import numpy as np

    if node.op_type != "Conv":
        flat: np.ndarray = read.reshape(-1, read.shape[-1])[where].astype(np.float32, copy=False)
        return flat
    begins, ends = _pads(node, shape, read)
    groups = int(attribute(node, "group", 1))
    width = read.shape[1] // groups
    spatial = len(shape) - 2
    padded = np.pad(read[:, number * width : (number + 1) * width], ((0, 0), (0, 0), *zip(begins, ends, strict=True)))
    strides, dilations = _steps(node, spatial)
    sample, *places = np.unravel_index(where, _places(node, shape, read))
    index: list[Any] = []
    for axis, place in enumerate(places):
        taps = place[:, None] * strides[axis] + np.arange(shape[2 + axis]) * dilations[axis]
        index.append(taps.reshape(len(where), *(1,) * axis, -1, *(1,) * (spatial - axis - 1)))
    index = [sample.reshape(-1, *(1,) * spatial), slice(None), *index]
    rows: np.ndarray = padded[tuple(index)]  # channels come last
    return np.moveaxis(rows, -1, 1).reshape(len(where), -1).astype(np.float32, copy=False)


def written_rows(node: Any, written: np.ndarray, where: np.ndarray) -> np.ndarray:
    """[positions, outputs]: what the node, or one that adds to it, writes there."""
    import numpy as np

    if node.op_type == "Conv":
        written = np.moveaxis(written, 1, -1)
    rows: np.ndarray = written.reshape(-1, written.shape[-1])[where].astype(np.float32, copy=False)
    return rows


def _places(node: Any, shape: Sequence[int], read: np.ndarray) -> tuple[int, ...]:
    """The sizes of what the node writes, without the channels."""
    if node.op_type != "Conv":
        return read.shape[:-1]
    begins, ends = _pads(node, shape, read)
    strides, dilations = _steps(node, len(shape) - 2)
    reach = (
        (size + begin + end - dilation * (kernel - 1) - 1) // stride + 1
        for size, begin, end, kernel, stride, dilation in zip(
            read.shape[2:], begins, ends, shape[2:], strides, dilations, strict=True
        )
    )
    return (read.shape[0], *reach)


def _steps(node: Any, spatial: int) -> tuple[list[int], list[int]]:
    return attribute(node, "strides", [1] * spatial), attribute(node, "dilations", [1] * spatial)


def _pads(node: Any, shape: Sequence[int], read: np.ndarray) -> tuple[list[int], list[int]]:
    spatial = len(shape) - 2
    pads = list(attribute(node, "pads", [0] * 2 * spatial))
    auto = attribute(node, "auto_pad", b"NOTSET").decode()
    if not auto.startswith("SAME"):
        return (pads[:spatial], pads[spatial:]) if auto == "NOTSET" else ([0] * spatial, [0] * spatial)
    strides, dilations = _steps(node, spatial)
    begins, ends = [], []
    for size, kernel, stride, dilation in zip(read.shape[2:], shape[2:], strides, dilations, strict=True):
        missing = max(0, ((size + stride - 1) // stride - 1) * stride + dilation * (kernel - 1) + 1 - size)
        few, many = missing // 2, missing - missing // 2
        begins.append(few if auto == "SAME_UPPER" else many)
        ends.append(many if auto == "SAME_UPPER" else few)
    return begins, ends
