"""Weights that make up for what was cut: each layer fitted anew to what the whole model writes there."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.cut import cut
from mlopt.prune.importance import LARGEST
from mlopt.prune.matrices import assembled, kept_inputs, kept_outputs, matrix
from mlopt.prune.nodes import groups_of
from mlopt.prune.rows import picked, read_rows, tensors, written_rows

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Channels

    Feeds = Callable[[], Iterable[Mapping[str, np.ndarray]]]

_PULLS: Final = (1e-3, 1e-2, 1e-1, 1.0)  # towards the weights as they were, of the mean second moment


@dataclass(frozen=True, slots=True)
class _Goal:
    """`tensor` is to be as in the whole model; it is what the layer writes plus `other`, if there is one."""

    tensor: str
    other: str


def refit(
    model: Any,
    channels: Channels,
    gone: Collection[int],
    weights: Mapping[str, np.ndarray],
    feeds: Feeds,
    scratch: Path,
    *,
    rows: int,
    done: Callable[[str], None] = lambda name: None,
) -> dict[str, np.ndarray]:
    """Initializers by name in the shape that they have after the cut, for every layer that reads what the cut changes.

    Layers are fitted in the order of the graph, each on inputs from the layers that were fitted before it, by least
    squares (He et al. 2017, "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv:1707.06168). Where
    a layer's outputs are added to others, the sum is fitted, so that it makes up for errors of the other part. How
    strongly the weights are held where they were is chosen by fitting on one half of the rows what is judged on the
    other. At most `rows` positions of each query are used.
    """
    found: dict[str, np.ndarray] = {}
    dirty = False
    for node in channels.graph.node:
        if not _fits(channels, node):
            continue
        stay = kept_inputs(channels, node, gone)
        dirty = dirty or (stay is not None and not stay.all())
        if not dirty:
            continue
        pruned = cut(model, channels, gone, found)
        parts = _parts(model, pruned, channels, node, gone, weights, feeds, scratch, rows)
        found |= assembled(channels, node, parts)
        done(node.name)
    return found


def _fits(channels: Channels, node: Any) -> bool:
    """Whether it has constant weights, few enough for each output to be fitted."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in channels.constants:
        return False
    shape = channels.constants[node.input[1]].dims
    if node.op_type == "Conv":
        return math.prod(shape[1:]) < LARGEST and not (_is_depthwise(node, shape) and groups_of(node) < shape[0])
    return len(shape) == 2 and max(shape) < LARGEST


def _is_depthwise(node: Any, shape: Sequence[int]) -> bool:
    return groups_of(node) > 1 and shape[1] == 1


def _goal(channels: Channels, node: Any) -> _Goal:
    written = node.output[0]
    readers = channels.readers.get(written, [])
    if len(readers) == 1 and readers[0].op_type == "Add":
        add = readers[0]
        other = add.input[1] if add.input[0] == written else add.input[0]
        order = [one.name for one in channels.graph.node]
        maker = channels.makers.get(other)
        # What is made later has not been fitted yet, and would fit the sum in its turn.
        if (
            other != written
            and maker is not None
            and order.index(maker.name) < order.index(node.name)
            and channels.shapes.get(other) == channels.shapes.get(written)
        ):
            return _Goal(add.output[0], other)
    return _Goal(written, "")


def _parts(
    whole: Any,
    pruned: Any,
    channels: Channels,
    node: Any,
    gone: Collection[int],
    weights: Mapping[str, np.ndarray],
    feeds: Feeds,
    scratch: Path,
    rows: int,
) -> list[np.ndarray]:
    """The fitted matrix of each group."""
    import numpy as np

    shape = channels.constants[node.input[1]].dims
    narrow = next(one for one in pruned.graph.node if one.name == node.name)
    goal, stay = _goal(channels, node), kept_outputs(channels, node, gone)
    groups = np.arange(groups_of(node))
    if _is_depthwise(node, shape) and stay is not None:
        groups = groups[stay]
    sums = [_Sums(biased=len(node.input) > 2) for _ in groups]
    with (
        tensors(whole, [goal.tensor], scratch) as run_whole,
        tensors(pruned, [node.input[0], *([goal.other] if goal.other else [])], scratch) as run_pruned,
    ):
        for query, feed in enumerate(feeds()):
            values = run_pruned(feed)
            read = values[node.input[0]]
            where = picked(node, shape, read, most=rows, seed=query)
            wanted = written_rows(node, run_whole(feed)[goal.tensor], where)
            wanted = wanted if stay is None else wanted[:, stay]
            if goal.other:
                wanted = wanted - written_rows(node, values[goal.other], where)
            for number, part in enumerate(np.split(wanted, len(groups), axis=1)):
                sums[number].add(read_rows(narrow, shape, read, number, where), part, half=query % 2)
    return [
        one.fitted(_start(channels, node, gone, weights, int(number))) for number, one in zip(groups, sums, strict=True)
    ]


def _start(
    channels: Channels, node: Any, gone: Collection[int], weights: Mapping[str, np.ndarray], number: int
) -> np.ndarray:
    """The matrix of a group as it was, without what is cut."""
    import numpy as np

    start = matrix(node, weights, number)
    made, read = kept_outputs(channels, node, gone), kept_inputs(channels, node, gone)
    if made is not None:
        start = start[:, made[number * start.shape[1] :][: start.shape[1]]]
    return start if read is None else start[np.append(read, True)]


class _Sums:
    """Products of what a layer reads with itself and with what it is to write, in two halves."""

    def __init__(self, *, biased: bool) -> None:
        self._biased = biased
        self._inner: list[Any] = [0.0, 0.0]
        self._outer: list[Any] = [0.0, 0.0]
        self._count = [0, 0]

    def add(self, read: np.ndarray, wanted: np.ndarray, *, half: int) -> None:
        import numpy as np

        if self._biased:
            read = np.concatenate([read, np.ones((len(read), 1), read.dtype)], axis=1)
        self._inner[half] = self._inner[half] + (read.T @ read).astype(np.float64)
        self._outer[half] = self._outer[half] + (read.T @ wanted).astype(np.float64)
        self._count[half] += len(read)

    def fitted(self, start: np.ndarray) -> np.ndarray:
        """[inputs + 1, outputs], the bias last; `start` where nothing that was fitted does better on the other half."""
        import numpy as np

        bias = start[-1:]
        start = start if self._biased else start[:-1]
        best, least = 0.0, 0.0
        if all(self._count):
            for pull in _PULLS:
                error = sum(self._gain(1 - half, self._solved([half], start, pull) - start, start) for half in (0, 1))
                if error < least:
                    best, least = pull, error
        if best:
            start = start + (self._solved([0, 1], start, best) - start)
        return start if self._biased else np.concatenate([start, bias])

    def _solved(self, halves: list[int], start: np.ndarray, pull: float) -> np.ndarray:
        import numpy as np

        count = sum(self._count[half] for half in halves)
        inner = sum(self._inner[half] for half in halves) / count
        outer = sum(self._outer[half] for half in halves) / count
        hold = np.full(len(inner), pull * max(np.trace(inner) / len(inner), 1e-12))
        if self._biased:
            hold[-1] *= 1e-3  # the mean is known well
        solved: np.ndarray = start + np.linalg.solve(inner + np.diag(hold), outer - inner @ start)
        return solved

    def _gain(self, half: int, step: np.ndarray, start: np.ndarray) -> float:
        """By how much the squared error on a half changes when the weights go from `start` by `step`."""
        inner, outer = self._inner[half] / self._count[half], self._outer[half] / self._count[half]
        return float((step * (inner @ step)).sum() - 2 * (step * (outer - inner @ start)).sum())
