"""The fewest nodes to keep in floating point so that answers stay inside what is allowed, in few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mlopt.intervals import Allowed, Changes
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise

_PART: Final = 0.25  # of the work: twice as fast, it makes all one eighth faster

Evaluate = Callable[[tuple[Group, ...]], Noise]
Predict = Callable[[float], Changes | None]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group and the noise power at the outputs when it alone is quantized."""

    group: Group
    power: float


@dataclass(frozen=True, slots=True)
class Mix:
    """`kept` groups stay in floating point; `noise` is what was seen with them."""

    kept: tuple[Group, ...]
    noise: Noise


@dataclass(slots=True)
class Search:
    """Keep the groups that cost most noise for their work, as few as it takes.

    The order is fixed by the sensitivities; what is searched is how many of its first groups to keep. Noise of
    groups adds up (independent roundings; Lin et al. 2016, "Fixed Point Quantization of Deep Convolutional
    Networks", arXiv:1511.06393), so each try predicts the next: the sum of what is left, scaled to what was seen.
    Neighbours share the rounding of the tensor between them, so that many make less noise than their sum; a group
    alone makes its own. The fewer are left, the nearer the scale is taken to one. `glance` builds a mix and runs it
    on a few samples, `evaluate` on all; `changes_at` gives the expected changes at a noise power. At most `most` are
    glanced at, and `sure` evaluated. `floor` is the power with everything kept, where what is kept rounds too (bf16).
    A mix that would be int8 in name alone is none: a part of the work, or of the weights, must be quantized.
    """

    sensitivities: Sequence[Sensitivity]
    allowed: Allowed
    glance: Evaluate
    evaluate: Evaluate
    changes_at: Predict
    most: int = 8
    sure: int = 2
    floor: float = 0.0
    _order: list[Sensitivity] = field(init=False)
    _end: int = field(init=False)  # so many groups would be too many to keep

    def __post_init__(self) -> None:
        # Ties are broken by the graph's order: sort is stable.
        self._order = sorted(self.sensitivities, key=lambda one: -one.power / max(1, one.group.work))
        self._end = next(count for count in range(1, len(self._order) + 1) if not self._worth(count))

    def run(self, everything: Noise) -> Mix | None:
        """`everything` is the noise with all quantized. None when too little may be quantized."""
        if everything.within(self.allowed):
            return Mix((), everything)
        count = self._glanced(everything)
        for _ in range(self.sure):
            if count >= self._end:
                break
            seen = self.evaluate(self._kept(count))
            if seen.within(self.allowed):
                return Mix(self._kept(count), seen)
            count = max(count + 1, self._predicted(seen, count))
        return None

    def _glanced(self, everything: Noise) -> int:
        """The fewest groups to keep by what a few samples show; `_end` where that is too many."""
        failing, passing = 0, self._end
        last, at = everything, 0
        for _ in range(self.most):
            if passing - failing <= 1:
                break
            wanted = min(self._predicted(last, at), passing - 1)
            if wanted <= failing:  # noise does not add up here as predicted
                wanted = (failing + passing) // 2
            seen = self.glance(self._kept(wanted))
            if seen.within(self.allowed):
                passing = wanted
                if wanted == max(self._predicted(seen, wanted), failing + 1):
                    break  # the prediction that fits what was seen says that one fewer would not do
            else:
                failing = wanted
            last, at = seen, wanted
        return passing

    def _kept(self, count: int) -> tuple[Group, ...]:
        return tuple(one.group for one in self._order[:count])

    def _worth(self, count: int) -> bool:
        """Whether enough is left to quantize with so many kept."""
        every, left = ([one.group for one in some] for some in (self._order, self._order[count:]))
        return sum(one.work for one in left) > _PART * sum(one.work for one in every) or (
            sum(one.weights for one in left) > _PART * sum(one.weights for one in every)
        )

    def _left(self, count: int) -> float:
        return sum(one.power for one in self._order[count:])

    def _predicted(self, seen: Noise, at: int) -> int:
        """The fewest groups to keep, by the sum of sensitivities scaled to what was seen with `at` groups kept."""
        then = self._left(at)
        scale = max(0.0, seen.power - self.floor) / then if then and math.isfinite(seen.power) else 1.0
        for count in range(len(self._order)):
            left = self._left(count)
            power = self.floor + left * (1 + (scale - 1) * min(1.0, left / then if then else 1.0))
            if replace(seen, power=power, changes=self.changes_at(power)).within(self.allowed):
                return count
        return len(self._order)
