"""The order in which groups are kept, and what int8 saves of the rest."""

from __future__ import annotations

import itertools
import random

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


def test_beside_what_is_kept_anyhow_no_border_is_new() -> None:
    some = [group("a", work=10, power=1), group("b", work=10, power=1)]
    order = Order(some, [Border(20, "first", frozenset({"b"}), 1, 1)])
    assert names(order) == "ba"
    assert order.saves == [0, 10, 0], "20 of work, less the border before b"


@pytest.mark.parametrize("seed", range(6))
def test_what_is_saved_is_what_counting_anew_says(seed: int) -> None:
    draw = random.Random(seed)
    letters = "abcdefghij"
    some = [group(one, work=draw.randrange(50), power=draw.random()) for one in letters]
    borders = [
        Border(draw.randrange(20), one, frozenset(draw.sample(letters.replace(one, ""), 2)), 2, draw.randrange(3))
        for one in (*letters, "z")
    ]
    order = Order(some, borders)
    assert sorted(names(order)) == list(letters)
    for count, saved in enumerate(order.saves):
        kept = {"z", *(one.group.name for one in order.groups[:count])}
        left = sum(one.group.work for one in some if one.group.name not in kept)
        assert saved == left - sum(border.cost(kept) for border in borders)
