"""The fewest nodes to keep in floating point so that answers stay inside what is allowed, in few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mlopt.intervals import Allowed, Changes
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise

Evaluate = Callable[[tuple[Group, ...]], Noise]
Predict = Callable[[float], Changes | None]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group and the noise power at the outputs when it alone is quantized."""

    group: Group
    power: float


@dataclass(frozen=True, slots=True)
class Mix:
    """`kept` groups stay in floating point; `noise` is what was seen with them, after `evaluations` tries."""

    kept: tuple[Group, ...]
    noise: Noise
    evaluations: int


@dataclass(slots=True)
class Search:
    """Keep the groups that cost most noise for their work, as few as it takes.

    The order is fixed by the sensitivities; what is searched is how many of its first groups to keep. Noise of
    groups adds up (independent roundings; Lin et al. 2016, "Fixed Point Quantization of Deep Convolutional
    Networks", arXiv:1511.06393), so each try predicts the next: the sum of what is left, scaled to what was seen.
    Neighbours share the rounding of the tensor between them, so that many make less noise than their sum; a group
    alone makes its own. The fewer are left, the nearer the scale is taken to one. `evaluate` builds and runs a mix;
    `changes_at` gives the expected changes at a noise power.
    """

    sensitivities: Sequence[Sensitivity]
    allowed: Allowed
    evaluate: Evaluate
    changes_at: Predict
    most: int = 8
    _order: list[Sensitivity] = field(init=False)

    def __post_init__(self) -> None:
        # Ties are broken by the graph's order: sort is stable.
        self._order = sorted(self.sensitivities, key=lambda one: -one.power / max(1, one.group.work))

    def run(self, everything: Noise) -> Mix | None:
        """`everything` is the noise with all quantized. None when not even one quantized group is allowed."""
        if everything.within(self.allowed):
            return Mix((), everything, 0)
        failing, passing, found = 0, len(self._order), None
        last, at = everything, 0
        tries = 0
        while passing - failing > 1 and tries < self.most:
            wanted = min(max(self._predicted(last, at), failing + 1), passing - 1)
            seen = self.evaluate(self._kept(wanted))
            tries += 1
            if seen.within(self.allowed):
                passing, found = wanted, seen
                if wanted == max(self._predicted(seen, wanted), failing + 1):
                    break  # the prediction that fits what was seen says that one fewer would not do
            else:
                failing = wanted
            last, at = seen, wanted
        return Mix(self._kept(passing), found, tries) if found else None

    def _kept(self, count: int) -> tuple[Group, ...]:
        return tuple(one.group for one in self._order[:count])

    def _left(self, count: int) -> float:
        return sum(one.power for one in self._order[count:])

    def fewer(self, mix: Mix | None, everything: Noise) -> tuple[Group, ...] | None:
        """What would have to be kept did all groups bring the noise of `everything`; None unless that is fewer."""
        count = self._predicted(everything, 0)
        most = len(mix.kept) if mix else len(self._order)
        return self._kept(count) if count < most else None

    def _predicted(self, seen: Noise, at: int) -> int:
        """The fewest groups to keep, by the sum of sensitivities scaled to what was seen with `at` groups kept."""
        then = self._left(at)
        scale = seen.power / then if then and math.isfinite(seen.power) else 1.0
        for count in range(len(self._order)):
            left = self._left(count)
            power = left * (1 + (scale - 1) * min(1.0, left / then if then else 1.0))
            if Noise(power, self.changes_at(power)).within(self.allowed):
                return count
        return len(self._order)
