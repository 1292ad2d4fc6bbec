"""How many channels to keep of each cell, so that a share of the work goes and the answers change least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlopt.prune.cells import Cell, Product

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Costs:
    """For a cell: what keeping each of its `kept` numbers does to the model's answers, as relative noise power."""

    cell: Cell
    noise: tuple[float, ...]


class Work:
    """Multiply-accumulates of the whole model by the numbers of channels that are gone from each cell."""

    def __init__(self, products: Sequence[Product], cells: Sequence[Cell]) -> None:
        import numpy as np

        owner = {root: number for number, cell in enumerate(cells) for root in cell.roots}
        factors, full, share = [], [], []
        for product in products:
            axes: list[np.ndarray] = []
            solid = product.factor
            for axis in product.axes:
                if isinstance(axis, int):
                    solid *= axis
                elif owner.keys().isdisjoint(axis.tolist()):
                    solid *= len(axis)
                else:
                    axes.append(axis)
            sizes = [len(axis) for axis in axes] + [1] * (2 - len(axes))
            per = np.zeros((2, len(cells)))
            for position, axis in enumerate(axes):
                for root in axis.tolist():
                    if root in owner:
                        number = owner[root]
                        per[position, number] += 1 / len(cells[number].roots)
            factors.append(solid)
            full.append(sizes)
            share.append(per)
        self._factors, self._full = np.array(factors, float), np.array(full, float).reshape(len(full), 2)
        self._share = np.array(share).reshape(len(share), 2, len(cells))

    def of(self, gone: np.ndarray) -> float:
        widths = self._full - self._share @ gone
        return float((self._factors * widths.prod(axis=1)).sum())


def allocate(costs: Sequence[Costs], work: Work, share: float) -> tuple[int, ...]:
    """The number to keep of each cell; the share must be within reach.

    One cell after another is made narrower, by as many of its steps as cost least noise for the work that goes.
    """
    import numpy as np

    gone = np.zeros(len(costs))
    at = [0] * len(costs)
    full = work.of(gone)
    while (now := work.of(gone)) > full * (1 - share):
        best: tuple[float, int, int] | None = None
        for number, one in enumerate(costs):
            for level in range(at[number] + 1, len(one.noise)):
                there = gone.copy()
                there[number] = len(one.cell.roots) - one.cell.kept[level]
                saved = min(now - work.of(there), now - full * (1 - share))
                rate = (one.noise[level] - one.noise[at[number]]) / max(saved, 1e-9)
                if saved > 0 and (best is None or (rate, number, level) < best):
                    best = (rate, number, level)
        assert best is not None
        _, number, level = best
        at[number] = level
        gone[number] = len(costs[number].cell.roots) - costs[number].cell.kept[level]
    return tuple(one.cell.kept[level] for one, level in zip(costs, at, strict=True))
