"""How channels pass through operators that move, join, split and resize axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.nodes import attribute, constant, put, why

if TYPE_CHECKING:
    from mlopt.prune.channels import Axis, Channels

    Shape = tuple[int | None, ...]


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
                    channels.unite(parts[0], part, why(node))
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
                channels.freeze(part, why(node))
            result.append(None)
    return put(channels, node, tuple(result))


def _held(channels: Channels, node: Any, name: str, axis: int) -> Axis:
    """Labels that stay, for a part of a joined axis that has none. None when its size is not known."""
    shape = channels.shapes.get(name)
    size = shape[axis] if shape else None
    if size is None:
        return None
    labels = channels.fresh(size)
    channels.freeze(labels, why(node))
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
        channels.freeze(axes[position], why(node))
    return put(channels, node, tuple(None if position in cut else axis for position, axis in enumerate(axes)))


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
            channels.freeze(axis, why(node))
            result.append(None)
        else:
            result.append(np.concatenate([channels.fresh(before), axis, channels.fresh(after)]))
    return put(channels, node, tuple(result))


def _transpose(channels: Channels, node: Any) -> bool:
    axes = channels.of(node.input[0])
    if axes is None:
        return False
    order = attribute(node, "perm", list(reversed(range(len(axes)))))
    return put(channels, node, tuple(axes[position] for position in order))


def _reshape(channels: Channels, node: Any) -> bool:
    """Flatten, Reshape, Squeeze, Unsqueeze: axes of size 1 come and go, trailing axes join, one is split into heads;
    nothing else moves."""
    axes, shape = channels.of(node.input[0]), channels.shapes.get(node.input[0])
    made = channels.shapes.get(node.output[0])
    if axes is None or shape is None or made is None or len(axes) != len(shape):
        return False
    if all(axis is None for axis in axes):
        return put(channels, node, (None,) * len(made))
    if shape.count(None) > 1:  # what the one loses, the other could win
        return False
    if node.op_type == "Reshape" and node.input[1] not in channels.constants and not _ends_free(channels, node):
        return False
    for size, axis in zip(shape, axes, strict=True):
        if size == 1:  # such an axis may vanish, and what it stands for could not
            channels.freeze(axis, why(node))
    before = [(size, axis) for size, axis in zip(shape, axes, strict=True) if size != 1]
    after = [position for position, size in enumerate(made) if size != 1]
    result: list[Axis] = [None] * len(made)
    if len(after) > len(before):
        return _heads(channels, node, before, after, made)
    shared = len(after)
    if len(before) != len(after):
        shared -= 1  # the last one joins what is left
        sizes = [size for size, _ in before[shared:]]
        if shared < 0 or None in sizes:
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
    return put(channels, node, tuple(result))


def _heads(
    channels: Channels, node: Any, before: Sequence[tuple[int | None, Axis]], after: Sequence[int], made: Shape
) -> bool:
    """One axis becomes several: what shares a place on the first of them can only go together."""
    more = len(after) - len(before)
    result: list[Axis] = [None] * len(made)
    at = next((p for p, (size, _) in enumerate(before) if size != made[after[p]]), len(before) - 1)
    size, axis = before[at]
    parts = [made[position] or 0 for position in after[at : at + more + 1]]
    if math.prod(parts) != size:
        return False
    pairs = [*zip(before[:at], after[:at], strict=True), *zip(before[at + 1 :], after[at + more + 1 :], strict=True)]
    for (same, other), position in pairs:
        if made[position] != same:
            return False
        result[position] = other
    if axis is not None:
        rows = axis.reshape(parts[0], -1)
        for column in rows.T[1:]:
            channels.unite(rows[:, 0], column, why(node))
        result[after[at]] = rows[:, 0]
    return put(channels, node, tuple(result))


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
        channels.freeze(axes[position], why(node))
    return put(channels, node, (None,))


def _resize(channels: Channels, node: Any) -> bool:
    axes, shape = channels.of(node.input[0]), channels.shapes.get(node.input[0])
    made = channels.shapes.get(node.output[0])
    sizes = node.input[3] if len(node.input) > 3 else ""
    if axes is None or shape is None or made is None or sizes or attribute(node, "axes", None):
        return False
    for axis, before, after in zip(axes, shape, made, strict=True):
        if before != after or before is None:
            channels.freeze(axis, why(node))
    return put(channels, node, axes)


SHAPE_RULES: Final[dict[str, Callable[[Channels, Any], bool]]] = {
    **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "Pad": _pad,
    "Resize": _resize,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
}
