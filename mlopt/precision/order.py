"""In which order groups are kept in floating point: those first that make much noise for what int8 saves of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from mlopt.precision.borders import Border
from mlopt.precision.groups import Group

_FEW: Final = 4  # groups around one tensor: all pairs of more are many, and to keep two saves none of the others

_Value = tuple[int, float, float]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group and the noise power at the outputs when it alone is quantized."""

    group: Group
    power: float


@dataclass(slots=True)
class Order:
    """`groups` one after the other, each the next that is worth most to keep beside those before it.

    What int8 `saves` with so many of them kept is in units of `Group.work`: the work of those that are left, less what
    numbers cost that pass `borders` between integers and floating point. That may be more than with fewer kept. A group
    is weighed alone and with each of its neighbours, for what lies between two that are kept costs more in int8 than it
    saves.
    """

    sensitivities: Sequence[Sensitivity]
    borders: Sequence[Border] = ()
    groups: list[Sensitivity] = field(init=False, default_factory=list)
    saves: list[int] = field(init=False)
    _mine: dict[str, Sensitivity] = field(init=False)
    _kept: set[str] = field(init=False, default_factory=set)
    _at: dict[str, list[Border]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._mine = {one.group.name: one for one in self.sensitivities}
        for border in self.borders:
            for name in border.groups:
                self._at.setdefault(name, []).append(border)
        crossing = sum(border.cost(self._kept) for border in self.borders)
        self.saves = [sum(one.group.work for one in self.sensitivities) - crossing]
        next_ = {name: self._next(name) for name in self._mine}
        while next_:
            # Of equal worth the first in the graph: max takes it.
            _, names = max(next_.values(), key=lambda found: found[0])
            for name in names:
                self.saves.append(self.saves[-1] - self._cost((name,)))
                self.groups.append(self._mine[name])
                self._kept.add(name)
                del next_[name]
            stale = self._near(self._near(names))
            next_ |= {name: self._next(name) for name in next_ if name in stale}

    def _next(self, name: str) -> tuple[_Value, tuple[str, ...]]:
        """How much it is worth to keep a group next, and with which neighbour."""
        near = self._near([name], most=_FEW) - self._kept - {name}
        tried = [(name,), *((name, other) for other in self._mine if other in near)] if near else [(name,)]
        return max(((self._value(names), names) for names in tried), key=lambda found: found[0])

    def _value(self, names: tuple[str, ...]) -> _Value:
        """To be compared: what costs nothing, or less, before all else, then by noise for cost."""
        cost, power = self._cost(names), sum(self._mine[name].power for name in names)
        return (0, power / cost, -cost) if cost > 0 else (1, -cost, power)

    def _cost(self, names: tuple[str, ...]) -> int:
        """What keeping these too loses of what int8 saves; less than nothing where they lay between kept ones."""
        touched = {id(border): border for name in names for border in self._at.get(name, ())}.values()
        before = sum(border.cost(self._kept) for border in touched)
        self._kept.update(names)
        after = sum(border.cost(self._kept) for border in touched)
        self._kept.difference_update(names)
        return after - before + sum(self._mine[name].group.work for name in names)

    def _near(self, names: Iterable[str], *, most: int = sys.maxsize) -> set[str]:
        """These, and those that share a border with one of them, of at most so many groups."""
        touched = (one for name in names for one in self._at.get(name, ()) if len(one.groups) <= most)
        return {*names, *(near for border in touched for near in border.groups if near in self._mine)}
