"""The search: fewest groups kept, few evaluations, whatever the noise does; and what cannot be is said."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mlopt.intervals import Allowed, Changes
from mlopt.precision.borders import Border
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise
from mlopt.precision.order import Sensitivity
from mlopt.precision.search import Mix, Search

COUNT = 40


class World:
    """Groups with seeded noise; what a mix really makes is the sum of its parts' times some, plus what they share."""

    def __init__(self, seed: int, *, together: float, misjudged: float = 1.0) -> None:
        generator = np.random.default_rng(seed)
        powers = 10 ** generator.uniform(-6, -2, COUNT)
        self.groups = tuple(
            Sensitivity(Group(f"g{number}", (f"n{number}",), int(work)), float(power))
            for number, (power, work) in enumerate(zip(powers, generator.integers(1, 1000, COUNT), strict=True))
        )
        self.together, self.misjudged = together, misjudged
        self.glanced: list[int] = []
        self.tried: list[int] = []

    def noise(self, kept: tuple[Group, ...]) -> Noise:
        left = [one.power for one in self.groups if one.group not in kept]
        return Noise(sum(left) * self.together, None)

    def glance(self, kept: tuple[Group, ...]) -> Noise:
        """A few samples are off by some."""
        self.glanced.append(len(kept))
        return Noise(self.noise(kept).power * self.misjudged, None)

    def evaluate(self, kept: tuple[Group, ...]) -> Noise:
        self.tried.append(len(kept))
        return self.noise(kept)

    def search(self, sqnr: float, most: int = 8) -> Mix | None:
        allowed = Allowed(400, sqnr=sqnr)
        return Search(self.groups, allowed, self.glance, self.evaluate, lambda _: None, most).run(self.noise(()))


def fewest(world: World, sqnr: float) -> int | None:
    """By trying every number of kept groups, in the order of noise for work."""
    order = [one.group for one in sorted(world.groups, key=lambda one: -one.power / one.group.work)]
    counts = (count for count in range(COUNT) if world.noise(tuple(order[:count])).sqnr >= sqnr)
    return next(counts, None)


@pytest.mark.parametrize(
    ("seed", "together", "sqnr"), [*itertools.product(range(4), (0.3, 1.0, 3.0), (15.0, 20.0, 25.0, 30.0, 35.0))]
)
def test_it_finds_the_fewest_in_few_evaluations(seed: int, together: float, sqnr: float) -> None:
    world = World(seed, together=together)
    mix = world.search(sqnr)
    assert mix is not None
    assert len(mix.kept) == fewest(world, sqnr)
    assert mix.noise.sqnr >= sqnr
    assert len(world.glanced) <= 4, "bisection would take log2(40), above 5"
    assert world.tried == [len(mix.kept)][: len(world.glanced)], "what a few samples showed is evaluated once"


class Neighbours(World):
    """Groups that share tensors, as those of a chain do: alone each makes its own noise, all of them half their sum."""

    def noise(self, kept: tuple[Group, ...]) -> Noise:
        left = sum(one.power for one in self.groups if one.group not in kept)
        share = left / sum(one.power for one in self.groups)
        return Noise(left * (1 + (self.together - 1) * share), None)


@pytest.mark.parametrize(("seed", "sqnr"), [*itertools.product(range(4), (20.0, 25.0))])
def test_what_is_kept_may_round_too(seed: int, sqnr: float) -> None:
    """As bf16 does, at half of the noise that is allowed: each mix makes that, and what of it is int8 as much again."""
    floor = 10 ** (-sqnr / 10) / 2
    world = Rounding(seed, floor)
    search = Search(world.groups, Allowed(400, sqnr=sqnr), world.glance, world.evaluate, lambda _: None, floor=floor)
    mix = search.run(world.noise(()))
    assert mix is not None
    assert len(mix.kept) == fewest(world, sqnr)
    assert len(world.glanced) <= 4


class Rounding(World):
    def __init__(self, seed: int, floor: float) -> None:
        super().__init__(seed, together=0.3)
        self.floor = floor

    def noise(self, kept: tuple[Group, ...]) -> Noise:
        return Noise(self.floor + super().noise(kept).power, None)


def test_what_neighbours_share_is_known_beforehand() -> None:
    tries = []
    for seed, sqnr in itertools.product(range(8), (20.0, 25.0, 30.0, 35.0)):
        world = Neighbours(seed, together=0.5)
        mix = world.search(sqnr)
        assert mix is not None
        assert len(mix.kept) == fewest(world, sqnr)
        tries.append(len(world.glanced))
    assert max(tries) <= 2
    assert sum(tries) / len(tries) <= 1.4, "mostly the first prediction is right, and nothing else is tried"


def test_all_int8_costs_no_evaluation() -> None:
    world = World(0, together=1.0)
    mix = world.search(0.0)
    assert mix == Mix((), world.noise(()))
    assert not world.glanced


def test_an_impossible_budget_is_said_without_an_evaluation() -> None:
    world = World(0, together=1.0)
    assert world.search(200.0) is None
    assert len(world.glanced) == 1, "as few groups as are worth it make too much noise"
    assert not world.tried


@pytest.mark.parametrize("misjudged", [0.8, 1.2])
def test_what_few_samples_misjudge_is_evaluated_again(misjudged: float) -> None:
    for seed, sqnr in itertools.product(range(4), (20.0, 25.0, 30.0)):
        world = World(seed, together=1.0, misjudged=misjudged)
        mix, least = world.search(sqnr), fewest(world, sqnr)
        assert mix is not None
        assert least is not None
        assert mix.noise.sqnr >= sqnr
        assert least <= len(mix.kept) <= least + 5
        assert len(world.tried) <= 2


def test_tries_are_bounded_and_what_is_found_holds() -> None:
    world = World(1, together=7.0)
    mix = world.search(25.0, most=2)
    assert len(world.glanced) <= 2
    assert mix is None or mix.noise.sqnr >= 25.0


def test_a_mix_that_is_int8_in_name_alone_is_none() -> None:
    """Two groups of which one does nine tenths of the work; the other has a share of the weights, or has not."""
    for weights, found in ((0, False), (1, True)):
        loud = Sensitivity(Group("loud", ("n1",), 9, 1), 1.0)
        quiet = Sensitivity(Group("quiet", ("n2",), 1, weights), 1e-9)
        noises = {(): Noise(1.0, None), (loud.group,): Noise(1e-9, None)}
        search = Search([quiet, loud], Allowed(400, sqnr=60.0), noises.__getitem__, noises.__getitem__, lambda _: None)
        mix = search.run(noises[()])
        assert (mix is not None) == found


class Answers:
    """Ten groups of the same work and noise; answers that change follow from the power, at `rate`."""

    def __init__(self, rate: float) -> None:
        self.groups = [Sensitivity(Group(f"g{number}", (f"n{number}",), 10, 1), 0.1) for number in range(10)]
        self.rate = rate
        self.evaluated: list[int] = []

    def changes(self, power: float) -> Changes:
        share = self.rate * power
        return Changes(2 * share, lost=share, won=share)

    def look(self, kept: tuple[Group, ...]) -> Noise:
        power = 0.1 * (10 - len(kept))
        return Noise(power, self.changes(power))

    def evaluate(self, kept: tuple[Group, ...]) -> Noise:
        self.evaluated.append(len(kept))
        return self.look(kept)

    def run(self, allowed: Allowed, least: float = 0.25) -> Mix | None:
        return Search(self.groups, allowed, self.look, self.evaluate, self.changes, least=least).run(self.look(()))


@pytest.mark.parametrize("rate", [0.006, 0.008, 0.011, 0.014, 0.02, 0.05])
def test_what_promises_most_is_made(rate: float) -> None:
    """By trying every number of kept groups."""
    world, allowed = Answers(rate), Allowed(800, drop=0.01)
    promise = {count: (1 - count / 10) * allowed.chance(world.changes(0.1 * (10 - count))) for count in range(8)}
    likely = {count: value for count, value in promise.items() if value / (1 - count / 10) >= 0.25}
    if promise[0] >= 0.75:
        likely = {0: promise[0]}  # what will likely do is not searched
    mix = world.run(allowed)
    assert (mix is None) == (not likely)
    if mix is not None:
        assert len(mix.kept) == max(likely, key=likely.__getitem__)
        assert world.evaluated == [len(mix.kept)] * bool(mix.kept), "all int8 was run on all samples before"


def test_an_even_chance_at_all_of_the_speed_is_worth_more_than_a_sure_one_at_a_part() -> None:
    world, allowed = Answers(0.009), Allowed(800, drop=0.01)
    assert 0.4 < allowed.chance(world.changes(1.0)) < 0.75
    mix = world.run(allowed)
    assert mix is not None
    assert len(mix.kept) <= 2
    kept = Search(world.groups, allowed, world.look, world.evaluate, world.changes, fewest=1).run(world.look(()))
    assert kept is not None
    assert kept.kept, "all int8 is somebody else's"
    sure = world.run(allowed, least=0.75)
    assert sure is not None
    assert len(sure.kept) > len(mix.kept)
    assert sure.noise.within(allowed)


def test_what_is_hardly_likely_is_not_made() -> None:
    world = Answers(0.2)
    assert world.run(Allowed(800, drop=0.01)) is None
    assert not world.evaluated


def test_a_fallback_of_one_group_is_none() -> None:
    """What would be left is all int8, which is somebody else's."""
    (one,) = [Sensitivity(Group("only", ("n1",), 9, 1), 1.0)]
    noise = Noise(1e-3, Changes(0.02, lost=0.01, won=0.01))
    search = Search([one], Allowed(828, drop=0.0125), lambda _: noise, lambda _: noise, lambda _: None, fewest=1)
    assert not noise.within(search.allowed)
    assert noise.chance(search.allowed) > 0.5
    assert search.run(noise) is None


class Beside:
    """Named groups of some work and noise, and so many weights each, with borders between them."""

    def __init__(self, borders: list[Border], *, weights: int = 0, **groups: tuple[int, float]) -> None:
        self.groups = [
            Sensitivity(Group(name, (name,), work, weights), power) for name, (work, power) in groups.items()
        ]
        self.borders = borders

    def noise(self, kept: tuple[Group, ...]) -> Noise:
        return Noise(sum(one.power for one in self.groups if one.group not in kept), None)

    def kept(self, sqnr: float) -> list[str] | None:
        """The names of what is kept, in the graph's order."""
        looks = (self.noise, self.noise, lambda _: None)
        mix = Search(self.groups, Allowed(400, sqnr=sqnr), *looks, borders=self.borders).run(self.noise(()))
        return None if mix is None else [one.group.name for one in self.groups if one.group in mix.kept]


def test_what_lies_between_two_kept_groups_is_kept_with_them() -> None:
    groups = {"a": (100, 1e-2), "b": (1, 1e-9), "c": (100, 1e-2), "d": (400, 1e-5)}
    assert Beside([], **groups).kept(40.0) == ["a", "c"]
    around = [Border(20, one, frozenset({other}), 1, 1) for one, other in ("ab", "bc", "cd")]
    assert Beside(around, **groups).kept(40.0) == ["a", "b", "c"]


def test_two_that_are_kept_for_each_other_are_seen_past_the_worse_mix_with_one() -> None:
    """Of 600 that all int8 saves one kept leaves less than nothing, both 400."""
    groups = {"a": (100, 1e-2), "b": (100, 1e-2), "c": (300, 1e-5), "d": (50, 1e-6), "e": (50, 1e-6)}
    around = [Border(700, "a", frozenset({"b"}), 1, 1)]
    assert Beside(around, **groups).kept(40.0) == ["a", "b"]
    assert Beside(around, weights=1, **groups).kept(40.0) == ["a", "b"]


def test_where_int8_saves_no_work_groups_count() -> None:
    assert Beside([], weights=1, a=(0, 1e-2), b=(0, 1e-5), c=(0, 1e-6)).kept(40.0) == ["a"]


def test_where_all_int8_saves_nothing_less_of_it_may() -> None:
    """Numbers from what is in floating point anyhow cost more than int8 saves of who reads them."""
    behind = Border(20, "", frozenset({"a"}), 1, 1)
    assert Beside([behind], a=(10, 1.0)).kept(40.0) is None
    assert Beside([behind], a=(10, 1e-2), b=(9, 1e-5)).kept(40.0) == ["a"]
    assert Beside([behind], a=(10, 1e-2), b=(9, 1e-5)).kept(90.0) is None
    assert Beside([behind], a=(10, 1e-2), b=(2, 1e-5)).kept(40.0) is None, "too little to be worth it"
