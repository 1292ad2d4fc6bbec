"""From a model and samples to the same model with fewer channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.precision.noise import answers, power
from mlopt.prune.allocate import Costs, Work, allocate
from mlopt.prune.cells import Cell, cells_of, products_of, stopped
from mlopt.prune.channels import Channels, follow
from mlopt.prune.cut import cut, with_biases
from mlopt.prune.importance import Ranking, batches, moments, rank
from mlopt.prune.refit import refit

if TYPE_CHECKING:
    import numpy as np

    Feeds = Callable[[], Iterable[Mapping[str, np.ndarray]]]

_ROWS: Final = 1 << 15  # positions of all queries at which a layer is looked at, about
_PROBES: Final = 2  # widths at which the whole model is run
_JUDGES: Final = 32  # samples on which it is


@dataclass(frozen=True, slots=True)
class Width:
    """Of the channels that the node `name` makes, and all that go with them."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """`model` is an onnx.ModelProto. Work is in multiply-accumulates per sample. `stays` has each product whose
    outputs cannot be cut, and because of what."""

    model: Any
    widths: tuple[Width, ...]
    work_before: float
    work_after: float
    stays: Mapping[str, str]


class OutOfReach(ValueError):
    """`most` is the largest share of the work that can go."""

    def __init__(self, most: float, stays: Mapping[str, str]) -> None:
        super().__init__(f"at most {most:.1%}")
        self.most, self.stays = most, stays


class Pruner:
    """What is seen of a model once, so that it can be cut to several shares.

    `model` is an onnx.ModelProto with inferred shapes and named nodes; it gets biases. `feeds` is called for each
    pass, and gives single samples.
    """

    def __init__(self, model: Any, feeds: Feeds, count: int, scratch: Path, *, multiple: int) -> None:
        import onnx

        with_biases(model)
        self._model, self._feeds, self._scratch = model, feeds, scratch
        self._channels: Channels = follow(model)
        self._weights = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        self._cells = cells_of(self._channels, multiple)
        self._work = Work(products_of(self._channels), self._cells)
        self._rows = max(1, math.ceil(_ROWS / max(1, count)))
        self._rankings: tuple[Ranking, ...] = ()
        self._costs: tuple[Costs, ...] = ()

    @property
    def most(self) -> float:
        """The largest share of the work that can go."""
        import numpy as np

        least = np.array([len(cell.roots) - cell.kept[-1] for cell in self._cells], float)
        full = self._work.of(np.zeros(len(self._cells)))
        return 1 - self._work.of(least) / full if full else 0.0

    def cut(self, share: float) -> Pruned:
        """Raises `OutOfReach`, and `importance.NotFinite` when a sample leads to NaN or infinity."""
        import numpy as np

        if share > self.most:
            raise OutOfReach(self.most, stopped(self._channels))
        if not self._rankings:
            self._rankings = tuple(self._ranked())
            self._costs = tuple(self._costed())
        kept = allocate(self._costs, self._work, share)
        gone = {root for one, number in zip(self._rankings, kept, strict=True) for root in one.gone(number)}
        weights = refit(self._model, self._channels, gone, self._weights, self._feeds, self._scratch, rows=self._rows)
        away = np.array([len(cell.roots) - number for cell, number in zip(self._cells, kept, strict=True)], float)
        return Pruned(
            cut(self._model, self._channels, gone, weights),
            tuple(Width(cell.name, len(cell.roots), number) for cell, number in zip(self._cells, kept, strict=True)),
            self._work.of(np.zeros(len(self._cells))),
            self._work.of(away),
            stopped(self._channels),
        )

    def _ranked(self) -> Iterable[Ranking]:
        for batch in batches(self._channels, self._cells):
            consumers = {one.name: one for cell in batch for one in cell.consumers}
            seen = moments(
                self._model, self._channels, list(consumers.values()), self._feeds(), self._scratch, self._rows
            )
            for cell in batch:
                yield rank(cell, self._channels, self._weights, seen, _PROBES)

    def _costed(self) -> Iterable[Costs]:
        """Errors at the readers as noise at the model's outputs: by how much one leads to the other is measured."""
        import onnx

        feeds = list(itertools.islice(self._feeds(), _JUDGES))
        path = self._scratch / "probe.onnx"
        onnx.save(self._model, str(path))
        exact = answers(path, feeds)
        for ranking in self._rankings:
            ratios: dict[int, float] = {}
            for kept, weights in ranking.weights.items():
                onnx.save(cut(self._model, self._channels, ranking.gone(kept), weights), str(path))
                error = ranking.errors[ranking.cell.kept.index(kept)]
                ratios[kept] = power(exact, answers(path, feeds)) / max(error, 1e-12)
            yield Costs(ranking.cell, tuple(_noise(ranking.cell, ranking.errors, ratios)))
        path.unlink()


def _noise(cell: Cell, errors: Sequence[float], ratios: Mapping[int, float]) -> Iterable[float]:
    """Errors times the ratio that was measured at the nearest width, never falling as the width does."""
    most = 0.0
    for kept, error in zip(cell.kept, errors, strict=True):
        near = min(ratios, key=lambda one: (abs(one - kept), one))
        most = max(most, error * ratios[near])
        yield most
