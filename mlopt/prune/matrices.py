"""Weights of a convolution or matrix product as one matrix from inputs to outputs, and back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlopt.prune.cut import kept
from mlopt.prune.nodes import attribute, groups_of

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Channels


def matrix(node: Any, weights: Mapping[str, np.ndarray], number: int) -> np.ndarray:
    """[inputs + 1, outputs] float64: the weights of group `number`, and its bias as the weights of a constant 1."""
    import numpy as np

    weight = weights[node.input[1]]
    bias = weights[node.input[2]].reshape(-1) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    if node.op_type == "Conv":
        made = len(weight) // groups_of(node)
        part = weight[number * made : (number + 1) * made].reshape(made, -1).T
        bias = bias[number * made : (number + 1) * made]
    else:
        part = weight.T if _turned(node) else weight
    return np.concatenate([part, np.broadcast_to(bias, (1, part.shape[1]))]).astype(np.float64)


def assembled(channels: Channels, node: Any, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Initializers by name from the matrices of all groups; nothing where other nodes use the same weights."""
    import numpy as np

    names = [name for name in node.input[1:3] if name]
    if any(len(channels.readers[name]) > 1 for name in names):
        return {}
    if node.op_type == "Conv":
        kernel = channels.shapes[names[0]][2:]
        weight = np.concatenate([part[:-1].T.reshape(part.shape[1], -1, *kernel) for part in parts])
    else:
        weight = parts[0][:-1].T if _turned(node) else parts[0][:-1]
    found = {names[0]: np.ascontiguousarray(weight, np.float32)}
    if len(names) > 1:
        found[names[1]] = np.concatenate([part[-1] for part in parts]).astype(np.float32)
    return found


def kept_outputs(channels: Channels, node: Any, gone: Collection[int]) -> np.ndarray | None:
    """Which outputs stay, as booleans; None where none can go."""
    weight = channels.of(node.input[1])
    assert weight is not None
    return kept(channels, weight[0 if node.op_type == "Conv" or _turned(node) else 1], gone)


def kept_inputs(channels: Channels, node: Any, gone: Collection[int]) -> np.ndarray | None:
    """Which inputs of a group stay, by place in the kernel too, as rows of the matrix."""
    import math

    weight, shape = channels.of(node.input[1]), channels.shapes[node.input[1]]
    assert weight is not None
    stay = kept(channels, weight[1 if node.op_type == "Conv" or _turned(node) else 0], gone)
    if stay is None:
        return None
    return stay.repeat(math.prod(size or 1 for size in shape[2:])) if node.op_type == "Conv" else stay


def _turned(node: Any) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
