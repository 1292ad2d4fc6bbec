"""In which order groups are kept in floating point: those first that make much noise for what int8 saves of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from mlopt.precision.borders import Border
from mlopt.precision.groups import Group


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """A group and the noise power at the outputs when it alone is quantized."""

    group: Group
    power: float


@dataclass(slots=True)
class Order:
    """`groups` one after the other, each the next that is worth most to keep beside those before it.

    What int8 `saves` with so many of them kept is in units of `Group.work`: the work of those that are left, less what
    numbers cost that pass `borders` between integers and floating point. A group is weighed alone and with each of its
    neighbours, for what lies between two that are kept costs more in int8 than it saves. Groups of `borders` that are
    not among these are kept anyhow.
    """

    sensitivities: Sequence[Sensitivity]
    borders: Sequence[Border] = ()
    groups: list[Sensitivity] = field(init=False, default_factory=list)
    saves: list[int] = field(init=False)
    _kept: set[str] = field(init=False)
    _at: dict[str, list[Border]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        mine = {one.group.name: one for one in self.sensitivities}
        for border in self.borders:
            for name in border.groups:
                self._at.setdefault(name, []).append(border)
        self._kept = self._at.keys() - mine.keys()
        crossing = sum(border.cost(self._kept) for border in self.borders)
        self.saves = [sum(one.group.work for one in self.sensitivities) - crossing]
        # Of equal worth the first in the graph: max takes it.
        worth = {name: self._best(name, mine) for name in mine}
        while worth:
            _, names = max(worth.values(), key=lambda found: found[0])
            for name in names:
                self.saves.append(self.saves[-1] - self._costs([name], mine))
                self.groups.append(mine[name])
                self._kept.add(name)
            stale = self._near(self._near(names))
            for name in names:
                del worth[name]
            worth |= {name: self._best(name, mine) for name in worth if name in stale}

    def _best(self, name: str, mine: dict[str, Sensitivity]) -> tuple[tuple[int, float], tuple[str, ...]]:
        """How much it is worth to keep a group next, and with which neighbour."""
        near = self._near([name]) - self._kept - {name}
        tried = [(name,), *((name, other) for other in mine if other in near)]
        return max(((self._worth(names, mine), names) for names in tried), key=lambda found: found[0])

    def _worth(self, names: tuple[str, ...], mine: dict[str, Sensitivity]) -> tuple[int, float]:
        cost, power = self._costs(names, mine), sum(mine[name].power for name in names)
        return (0, power / cost) if cost > 0 else (1, power - cost)

    def _costs(self, names: Collection[str], mine: dict[str, Sensitivity]) -> int:
        """What keeping these too loses of what int8 saves; less than nothing where they lay between kept ones."""
        touched = {id(border): border for name in names for border in self._at.get(name, ())}.values()
        after = self._kept.union(names)
        more = sum(border.cost(after) - border.cost(self._kept) for border in touched)
        return more + sum(mine[name].group.work for name in names)

    def _near(self, names: Iterable[str]) -> set[str]:
        """These, and those that share a border with one of them."""
        return {*names, *(near for name in names for border in self._at.get(name, ()) for near in border.groups)}
