"""What quantization does to answers, from few samples: noise against signal, and how many answers it would change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from mlopt.intervals import Allowed, Changes
from mlopt.parallel import mapped
from mlopt.runners.onnxruntime import OnnxRuntimeRunner

if TYPE_CHECKING:
    import numpy as np

    Feeds = Mapping[str, np.ndarray]

_BUDGET: Final = 1 << 28  # bytes of answers to hold; a model with large outputs is judged on fewer samples


def answers(
    model: Path,
    feeds: Iterable[Feeds],
    *,
    as_written: bool = False,
    lent: Mapping[str, Any] = MappingProxyType({}),
) -> list[np.ndarray]:
    """Every output for every feed, joined along the first axis, float32; at most 256 MiB, then no further feed.

    `as_written`, the runtime changes nothing of the graph: it would quantize weights that it finds in floating point
    between quantized values. `lent` are weights that the file does not hold.
    """
    import numpy as np

    rows: list[list[np.ndarray]] = []
    held = 0
    # One thread for each query, several queries at a time: faster than threads inside one, and the sums stay the same.
    with OnnxRuntimeRunner(model, threads=1, as_written=as_written, lent=lent) as runner:
        for outputs in mapped(runner.infer, feeds):
            values = [np.atleast_1d(np.asarray(value)).astype(np.float32) for value in outputs]
            rows.append(values)
            held += sum(value.nbytes for value in values)
            if held > _BUDGET:
                break
    return [np.concatenate([row[position] for row in rows]) for position in range(len(rows[0]))]


@dataclass(frozen=True, slots=True)
class Noise:
    """`power` is noise over signal (1 / SQNR, linear), the largest over outputs. `changes` None: no classifier.
    `spread` is by how much it differs between the samples that were `seen`: standard deviation over mean."""

    power: float
    changes: Changes | None
    spread: float = 0.0
    seen: int = 0

    @property
    def sqnr(self) -> float:
        """Signal over noise in decibel."""
        return math.inf if self.power == 0 else -10 * math.log10(self.power)

    def within(self, allowed: Allowed) -> bool:
        """Whether answers with this noise likely stay inside what is allowed."""
        return self._keeps_signal(allowed) and (self.changes is None or allowed.keeps_answers(self.changes))

    def chance(self, allowed: Allowed) -> float:
        """How likely that is."""
        if not self._keeps_signal(allowed):
            return 0.0
        return 1.0 if self.changes is None else allowed.chance(self.changes)

    def _keeps_signal(self, allowed: Allowed) -> bool:
        if not math.isfinite(self.power):
            return False
        return allowed.sqnr is None or self.sqnr - allowed.decibel_for(self.spread, self.seen) >= allowed.sqnr


def power(exact: Sequence[np.ndarray], quantized: Sequence[np.ndarray]) -> float:
    """Noise over signal of the samples that both answered, the largest over outputs."""
    import numpy as np

    most = 0.0
    for one, other in zip(exact, quantized, strict=True):
        rows = min(len(one), len(other))
        signal = float(np.square(one[:rows], dtype=np.float64).sum())
        apart = float(np.square(one[:rows].astype(np.float64) - other[:rows]).sum())
        if not math.isfinite(apart):
            return math.inf
        most = max(most, apart / signal if signal else math.inf if apart else 0.0)
    return most


def spread(exact: np.ndarray, quantized: np.ndarray) -> float:
    """By how much the noise of samples that both answered differs: standard deviation over mean."""
    import numpy as np

    rows = min(len(exact), len(quantized))
    apart = np.square(exact[:rows].astype(np.float64) - quantized[:rows]).reshape(rows, -1).sum(axis=1)
    return float(apart.std() / apart.mean()) if apart.any() and np.isfinite(apart).all() else 0.0
