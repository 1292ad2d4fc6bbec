"""What each channel is worth to the layers that read it, once the channels that stay have made up for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.cells import Cell, Consumer
from mlopt.prune.matrices import assembled, kept_outputs, matrix
from mlopt.prune.rows import picked, read_rows, tensors

if TYPE_CHECKING:
    import numpy as np

    from mlopt.prune.channels import Channels

    Feed = Mapping[str, np.ndarray]

LARGEST: Final = 4800  # inputs of a layer up to which second moments of all pairs are kept
_MEMORY: Final = 1 << 28  # bytes of second moments gathered in one pass
_STEPS: Final = 48  # a cell with many channels loses several at once
_TOGETHER: Final = 64  # channels scored in one call
_RIDGE: Final = 1e-4  # of the mean second moment: keeps what few samples show from being believed to the last digit


class NotFinite(FloatingPointError):
    """An activation held NaN or infinity. `query` is the number of the feed, from 0."""

    def __init__(self, tensor: str, query: int) -> None:
        super().__init__(tensor)
        self.tensor, self.query = tensor, query


@dataclass(frozen=True, slots=True)
class Ranking:
    """`order` is the cell's classes, the least needed first. `errors` has, for each number in the cell's `kept`, the
    part of the readers' outputs that is lost in spite of the best correction; `weights` what corrects them, by
    number kept and initializer."""

    cell: Cell
    order: tuple[int, ...]
    errors: tuple[float, ...]
    weights: Mapping[int, Mapping[str, np.ndarray]]

    def gone(self, kept: int) -> tuple[int, ...]:
        return self.order[: len(self.cell.roots) - kept]


def moments(
    model: Any, channels: Channels, consumers: Sequence[Consumer], feeds: Iterable[Feed], scratch: Path, rows: int
) -> dict[str, np.ndarray]:
    """By consumer: mean products of all pairs of its inputs, a constant 1 being the last; squares alone where the
    inputs are more than `LARGEST`. At most `rows` positions of each query. Raises `NotFinite`."""
    import numpy as np

    found: dict[str, np.ndarray] = {}
    count: dict[str, int] = {}
    with tensors(model, [one.node.input[0] for one in consumers], scratch) as run:
        for query, feed in enumerate(feeds):
            values = run(feed)
            for one in consumers:
                read = values[one.node.input[0]]
                if not np.isfinite(read).all():
                    raise NotFinite(one.node.input[0], query)
                shape = channels.constants[one.node.input[1]].dims
                where = picked(one.node, shape, read, most=rows, seed=query)
                seen = read_rows(one.node, shape, read, one.number, where)
                seen = np.concatenate([seen, np.ones((len(seen), 1), seen.dtype)], axis=1)
                one_more = seen.T @ seen if seen.shape[1] <= LARGEST else np.square(seen).sum(axis=0)
                found[one.name] = found.get(one.name, 0) + one_more.astype(np.float64)
                count[one.name] = count.get(one.name, 0) + len(seen)
    return {name: found[name] / count[name] for name in found}


def batches(channels: Channels, cells: Sequence[Cell]) -> Iterable[list[Cell]]:
    """The cells in order, as many at a time as have their second moments in memory together."""
    batch: list[Cell] = []
    held = 0
    for cell in cells:
        needs = sum(8 * _inputs(channels, one) ** 2 for one in cell.consumers)
        if batch and held + needs > _MEMORY:
            yield batch
            batch, held = [], 0
        batch.append(cell)
        held += needs
    if batch:
        yield batch


def rank(
    cell: Cell, channels: Channels, weights: Mapping[str, np.ndarray], seen: Mapping[str, np.ndarray], probes: int
) -> Ranking:
    """Take away one channel after another, each time the one that its readers miss least, and correct them.

    The error of taking block b away from a layer with weights W, with the best linear correction by the inputs that
    stay, is tr(W_b' (H⁻¹_bb)⁻¹ W_b), H being the second moments (Hassibi and Stork 1993, "Second order derivatives
    for network pruning: Optimal Brain Surgeon", here by blocks and on each layer's outputs). `weights` are the
    model's. Corrected weights are kept at `probes` of the numbers that may be kept.
    """
    import numpy as np

    layers = [_Layer(channels, one, weights, seen[one.name]) for one in cell.consumers]
    left = list(cell.roots)
    order: list[int] = []
    errors, corrected = [0.0], {}
    probed = {cell.kept[at] for at in np.linspace(1, len(cell.kept) - 1, probes + 1).astype(int)[:probes]}
    total = 0.0
    for kept in cell.kept[1:]:
        while len(left) > kept:
            scores = sum(layer.scores(left) for layer in layers)
            few = min(len(left) - kept, max(1, len(cell.roots) // _STEPS))
            worst = sorted(np.argsort(scores, kind="stable")[:few].tolist())
            away = [left[at] for at in worst]
            total += sum(layer.remove(away) for layer in layers)
            order += away
            left = [root for root in left if root not in set(away)]
        errors.append(total)
        if kept in probed:
            corrected[kept] = _corrected(layers, set(order))
    return Ranking(cell, (*order, *left), tuple(errors), corrected)


class _Layer:
    """A reader of the cell: its weights as they are corrected, and the inverse of its inputs' second moments."""

    def __init__(
        self, channels: Channels, consumer: Consumer, weights: Mapping[str, np.ndarray], seen: np.ndarray
    ) -> None:
        import numpy as np

        self.channels, self.consumer = channels, consumer
        self.weights = matrix(consumer.node, weights, consumer.number)
        volume = (len(self.weights) - 1) // len(consumer.roots)
        self._at: dict[int, list[int]] = {}
        for position, root in enumerate(consumer.roots.tolist()):
            self._at.setdefault(root, []).extend(range(position * volume, (position + 1) * volume))
        self._inverse: np.ndarray | None = None
        if seen.ndim == 1:
            self._variance = seen
            energy = float((seen[:-1, None] * np.square(self.weights[:-1])).sum())
        else:
            squares = (self.weights * (seen @ self.weights)).sum(axis=0)
            energy = float((squares - np.square(seen[-1] @ self.weights)).sum())
            if len(consumer.node.input) < 3:  # nowhere to put the mean of what goes
                seen, self.weights = seen[:-1, :-1], self.weights[:-1]
            ridge = _RIDGE * max(float(np.trace(seen)) / len(seen), 1e-12)
            self._inverse = np.linalg.inv(seen + ridge * np.eye(len(seen)))
        self._energy = max(energy, 1e-12)

    def scores(self, roots: Sequence[int]) -> np.ndarray:
        """What would be lost of the outputs without each one of these, relative."""
        import numpy as np

        blocks = [np.array(self._at[root]) for root in roots]
        if self._inverse is None:
            lost = [float((self._variance[block, None] * np.square(self.weights[block])).sum()) for block in blocks]
            return np.array(lost) / self._energy
        found = np.empty(len(roots))
        for size in {len(block) for block in blocks}:
            alike = [number for number, block in enumerate(blocks) if len(block) == size]
            for start in range(0, len(alike), _TOGETHER):
                some = alike[start : start + _TOGETHER]
                index = np.stack([blocks[number] for number in some])
                part = self.weights[index]
                inverse = self._inverse[index[:, :, None], index[:, None, :]]
                found[some] = (part * np.linalg.solve(inverse, part)).sum(axis=(1, 2))
        return found / self._energy

    def remove(self, roots: Sequence[int]) -> float:
        """Take these away and correct the rest; what that loses of the outputs, relative."""
        import numpy as np

        block = np.array([at for root in roots for at in self._at[root]])
        part = self.weights[block]
        if self._inverse is None:
            lost = float((self._variance[block, None] * np.square(part)).sum())
        else:
            column = self._inverse[:, block]
            back = np.linalg.solve(column[block], part)
            lost = float((part * back).sum())
            self.weights -= column @ back
            self._inverse -= column @ np.linalg.solve(column[block], column.T)
            # What is gone stays gone whatever the last digit of these products is.
            self._inverse[block], self._inverse[:, block] = 0.0, 0.0
        self.weights[block] = 0.0
        return max(0.0, lost / self._energy)

    def left(self, gone: set[int]) -> np.ndarray:
        """The corrected weights without the inputs and outputs that are gone, the bias last."""
        import numpy as np

        inputs = sum(len(places) for places in self._at.values())
        rows = sorted(at for root, places in self._at.items() if root not in gone for at in places)
        bias = self.weights[inputs:] if len(self.weights) > inputs else np.zeros((1, self.weights.shape[1]))
        left: np.ndarray = np.concatenate([self.weights[rows], bias])[:, self._made(gone)]
        return left

    def _made(self, gone: set[int]) -> np.ndarray:
        import numpy as np

        kept = kept_outputs(self.channels, self.consumer.node, gone)
        made = self.weights.shape[1]
        return np.ones(made, bool) if kept is None else kept[self.consumer.number * made :][:made]


def _corrected(layers: Sequence[_Layer], gone: set[int]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    nodes = {layer.consumer.node.name: layer.consumer.node for layer in layers}
    for name, node in nodes.items():
        parts = [layer.left(gone) for layer in layers if layer.consumer.node.name == name]
        found |= assembled(layers[0].channels, node, parts)
    return found


def _inputs(channels: Channels, consumer: Consumer) -> int:
    shape = channels.shapes[consumer.node.input[1]]
    volume = math.prod(size or 1 for size in shape[2:]) if consumer.node.op_type == "Conv" else 1
    return len(consumer.roots) * volume
