"""The order in which groups are kept, and what int8 saves of the rest."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from mlopt.precision.borders import Border
from mlopt.precision.groups import Group
from mlopt.precision.order import Order, Sensitivity


def group(name: str, *, work: int, power: float) -> Sensitivity:
    return Sensitivity(Group(name, (name,), work), power)


def chain(size: int, *names: str) -> list[Border]:
    return [Border(size, one, frozenset({other}), 1, 1) for one, other in itertools.pairwise(names)]


def names(order: Order) -> str:
    return "".join(one.group.name for one in order.groups)


def test_without_borders_it_is_noise_for_work_and_of_equals_the_first() -> None:
    some = [group("a", work=10, power=1), group("b", work=1, power=1), group("c", work=1, power=1)]
    assert names(Order([*some, group("d", work=0, power=1e-9)])) == "dbca", "what saves nothing goes first"


def test_what_lies_between_two_that_are_kept_is_kept_too() -> None:
    some = [group("a", work=100, power=9), group("b", work=1, power=0), group("c", work=100, power=8)]
    some.append(group("d", work=100, power=7))
    order = Order(some, chain(5, "a", "b", "c", "d"))
    assert names(order) == "abcd", "with b, which makes no noise, c costs 101; alone 110"
    assert order.saves == [301, 196, 195, 95, 0]


def test_a_group_is_weighed_with_its_neighbour_too() -> None:
    """Alone each of the first two pays for the tensor between them."""
    some = [group("a", work=1, power=2), group("b", work=1, power=2), group("c", work=1, power=3)]
    assert names(Order(some, chain(100, "a", "b"))) == "cab"
    some[2] = group("c", work=90, power=2)
    assert names(Order(some, chain(100, "a", "b"))) == "abc", "4 for 2 is more than 2 for 90; alone they have 2 for 101"


def test_behind_what_is_kept_anyhow_no_border_is_new() -> None:
    some = [group("a", work=10, power=1), group("b", work=10, power=1)]
    order = Order(some, [Border(20, "", frozenset({"b"}), 1, 1)])
    assert names(order) == "ba"
    assert order.saves == [0, 10, 0], "20 of work, less the border before b"


def test_what_cannot_be_run_goes_first_and_takes_nobody_along() -> None:
    some = [group("a", work=100, power=0), group("b", work=10, power=float("inf")), group("c", work=10, power=1)]
    assert names(Order(some, chain(1, "a", "b"))) == "bca"


def test_many_readers_of_one_tensor_are_not_weighed_in_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    weighed: list[int] = []
    value = Order._value
    monkeypatch.setattr(Order, "_value", lambda self, names: weighed.append(len(names)) or value(self, names))
    letters = [f"g{number}" for number in range(300)]
    some = [group(name, work=number + 1, power=1) for number, name in enumerate(letters)]
    order = Order(some, [Border(5, "g0", frozenset(letters[1:]), 1, 1)] * 3)
    assert [one.group.name for one in order.groups] == letters
    assert set(weighed) == {1}
    assert len(weighed) <= 300 * 301 / 2, "each once after each that is kept"


@dataclass
class Anew:
    """The same order, everything counted anew at each step."""

    groups: list[Sensitivity]
    borders: list[Border]

    def saves(self, kept: set[str]) -> int:
        left = sum(one.group.work for one in self.groups if one.group.name not in kept)
        return left - sum(border.cost(kept) for border in self.borders)

    def order(self) -> str:
        kept: list[str] = []
        letters = [one.group.name for one in self.groups]
        while len(kept) < len(letters):
            left = [name for name in letters if name not in kept]
            near = {
                name: {
                    other for one in self.borders if name in one.groups and len(one.readers) < 4 for other in one.groups
                }
                for name in left
            }
            tried = [
                (one, *more)
                for one in left
                for more in [(), *((other,) for other in left if other in near[one] - {one})]
            ]
            kept += max(tried, key=lambda some: self.value(some, set(kept)))
        return "".join(kept)

    def value(self, some: tuple[str, ...], kept: set[str]) -> tuple[int, float, float]:
        cost = self.saves(kept) - self.saves(kept | set(some))
        power = sum(one.power for one in self.groups if one.group.name in some)
        return (0, power / cost, -cost) if cost > 0 else (1, -cost, power)


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_counting_anew_says(seed: int) -> None:
    draw = random.Random(seed)
    letters = "abcdefghijklmnopq"[: draw.randrange(2, 18)]
    some = [
        group(one, work=draw.randrange(4) * draw.randrange(50), power=draw.choice([0, 1, draw.random()]))
        for one in letters
    ]
    borders = []
    for _ in range(draw.randrange(len(letters) * 2)):
        writer = draw.choice(["", *letters])
        others = [one for one in letters if one != writer]
        readers = draw.sample(others, min(len(others), draw.choice([1, 1, 2, 5])))
        borders.append(Border(draw.randrange(40), writer, frozenset(readers), 2, draw.randrange(3)))
    order, anew = Order(some, borders), Anew(some, borders)
    assert names(order) == anew.order()
    kept = [names(order)[:count] for count in range(len(letters) + 1)]
    assert order.saves == [anew.saves(set(one)) for one in kept]
