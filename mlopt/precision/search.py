"""Which nodes to keep in floating point so that answers stay inside what is allowed, in few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from mlopt.intervals import Allowed, Changes
from mlopt.precision.borders import Border
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise
from mlopt.precision.order import Order, Sensitivity

_PART: Final = 0.25  # of the work: twice as fast, it makes all one eighth faster
_HARDLY: Final = 1.02  # better than what is known: not worth a glance
_BETTER: Final = 1.25  # not worth an evaluation, which is a pass over all samples

Evaluate = Callable[[tuple[Group, ...]], Noise]
Predict = Callable[[float], Changes | None]


@dataclass(frozen=True, slots=True)
class Mix:
    """`kept` groups stay in floating point; `noise` is what was seen with them."""

    kept: tuple[Group, ...]
    noise: Noise


@dataclass(slots=True)
class Search:
    """Keep groups that cost much noise for what int8 saves of them, as many as promise the most speed.

    The order is fixed by sensitivities and `borders` (`Order`); what is searched is how many of its first groups to
    keep. The more are kept, the likelier is it that the answers are proven to be inside what is `allowed`, and the less
    is there to win: what counts is the part of the work that int8 saves times that chance, which has to be at `least`
    so large. Where all int8 is not likely, `fewest` groups or more are kept.

    Noise of groups adds up (independent roundings; Lin et al. 2016, "Fixed Point Quantization of Deep Convolutional
    Networks", arXiv:1511.06393), so tries predict the next: the sum of what is left, scaled to what was seen.
    Neighbours share the rounding of the tensor between them, so that many make less noise than their sum; a group
    alone makes its own. The fewer are left, the nearer the scale is taken to one. `glance` builds a mix and runs it
    on a few samples, `evaluate` on all; `changes_at` gives the expected changes at a noise power. At most `most` are
    glanced at, and `sure` evaluated. `floor` is the power with everything kept, where what is kept rounds too (bf16).
    A mix that would be int8 in name alone is none: it saves a part of the work, or a part of the weights is
    quantized.
    """

    sensitivities: Sequence[Sensitivity]
    allowed: Allowed
    glance: Evaluate
    evaluate: Evaluate
    changes_at: Predict
    most: int = 8
    sure: int = 2
    least: float = 0.25
    fewest: int = 0
    floor: float = 0.0
    borders: Sequence[Border] = ()
    _order: Order = field(init=False)
    _work: int = field(init=False)  # of all groups
    _counts: list[int] = field(init=False)  # how many groups may be kept
    _seen: dict[int, Noise] = field(init=False, default_factory=dict)  # by how many groups are kept
    _sure: set[int] = field(init=False, default_factory=set)  # what of it was evaluated

    def __post_init__(self) -> None:
        self._order = Order(self.sensitivities, self.borders)
        self._work = sum(one.group.work for one in self.sensitivities)
        self._counts = [count for count in range(len(self.sensitivities)) if count == 0 or self._worth(count)]

    def run(self, everything: Noise) -> Mix | None:
        """`everything` is the noise with all quantized. None when nothing that is worth making is likely enough."""
        if everything.within(self.allowed):
            return Mix((), everything)
        if self._counts[-1] < self.fewest:
            return None
        self._seen, self._sure = {0: everything}, set()
        count = last = 0
        for _ in range(self.most):
            count = self._best(last)
            if count in self._seen:
                break
            self._seen[count], last = self.glance(self._kept(count)), count
        self._sure = {0} - set(range(self.fewest))
        for _ in range(self.sure):
            count = self._best(last)
            known = max((self._promise(one, self._chance(one, last)) for one in self._sure), default=0.0)
            if count in self._sure or self._promise(count, self._chance(count, last)) <= _BETTER * known:
                break
            self._seen[count], last = self.evaluate(self._kept(count)), count
            self._sure.add(count)
        made = {one: promise for one in sorted(self._sure) if (promise := self._promise(one, self._chance(one, last)))}
        best = max(made, key=made.__getitem__, default=None)
        return None if best is None else Mix(self._kept(best), self._seen[best])

    def _best(self, last: int) -> int:
        """How many groups to keep by all that was seen, `last` that with so many. Where nothing promises anything as
        many as are worth it, for that is predicted, and predictions are off."""
        best, most = self._counts[-1], 0.0
        for count in self._counts:
            if count < self.fewest or self._saved(count) <= most:
                continue  # however likely it is
            promise = self._promise(count, self._chance(count, last)) / (1.0 if count in self._seen else _HARDLY)
            if promise > most:
                best, most = count, promise
        return best

    def _promise(self, count: int, chance: float) -> float:
        return chance * self._saved(count) if chance >= self.least else 0.0

    def _chance(self, count: int, last: int) -> float:
        """As seen, or as predicted; more kept groups are no less likely to do."""
        if count in self._seen:
            return self._seen[count].chance(self.allowed)
        least = max((noise.chance(self.allowed) for one, noise in self._seen.items() if one < count), default=0.0)
        most = min((noise.chance(self.allowed) for one, noise in self._seen.items() if one > count), default=1.0)
        return max(least, min(most, self._predicted(count, last).chance(self.allowed)))

    def _predicted(self, count: int, last: int) -> Noise:
        """By the sum of sensitivities: between two mixes that were glanced at, or scaled to what was seen with `last`
        groups kept."""
        seen, left = self._seen[last], self._left(count)
        fewer = max((one for one in self._seen if one < count), default=0)
        more = min((one for one in self._seen if one > count), default=0)
        if fewer and more and self._sure <= {0} and math.isfinite(self._seen[fewer].power):
            most, least = self._seen[fewer].power, self._seen[more].power
            span = self._left(fewer) - self._left(more)
            power = least + (most - least) * ((left - self._left(more)) / span if span else 1.0)
        else:
            then = self._left(last)
            scale = max(0.0, seen.power - self.floor) / then if then and math.isfinite(seen.power) else 1.0
            power = self.floor + left * (1 + (scale - 1) * min(1.0, left / then if then else 1.0))
        return replace(seen, power=power, changes=self.changes_at(power))

    def _kept(self, count: int) -> tuple[Group, ...]:
        return tuple(one.group for one in self._order.groups[:count])

    def _saved(self, count: int) -> float:
        """The part of the work that int8 saves with so many kept, less borders; where there is none, of the groups."""
        return self._order.saves[count] / self._work if self._work else 1 - count / len(self.sensitivities)

    def _worth(self, count: int) -> bool:
        """Whether enough is left to quantize with so many kept."""
        every, left = ([one.group for one in some] for some in (self._order.groups, self._order.groups[count:]))
        return self._order.saves[count] > _PART * self._work or (
            sum(one.weights for one in left) > _PART * sum(one.weights for one in every)
        )

    def _left(self, count: int) -> float:
        return sum(one.power for one in self._order.groups[count:])
