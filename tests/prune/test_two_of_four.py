"""Two of each four weights: which go, what the others become, and along which axis."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from nets import conv_net, depthwise_net
from onnx import numpy_helper

from mlopt.prune.sparsity import sparsity_of
from mlopt.prune.two_of_four import along_inputs, pruned, sparsify, why_whole
from mlopt.repair.layers import layers_of
from mlopt.repair.rounding import cost, damped


def problem(rows: int, columns: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and the Gram matrix of inputs of which each is much like its neighbours."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((4 * columns, columns)) @ random.standard_normal((columns, columns))
    return random.standard_normal((1, rows, columns)), damped((x.T @ x)[None])


def least(wanted: np.ndarray, gram: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> float:
    """The cost of a row whose weights outside of `pairs` (one of each four) are fitted, solved outright."""
    gone = {4 * number + place for number, pair in enumerate(pairs) for place in pair}
    stay = [column for column in range(len(wanted)) if column not in gone]
    values = np.zeros_like(wanted)
    values[stay] = np.linalg.solve(gram[np.ix_(stay, stay)], gram[stay] @ wanted)
    return float((values - wanted) @ gram @ (values - wanted))


def of_four(values: np.ndarray) -> bool:
    return bool(((values.reshape(*values.shape[:-1], -1, 4) == 0).sum(axis=-1) >= 2).all())


def test_of_one_four_the_pair_goes_that_costs_least_of_all() -> None:
    wanted, gram = problem(16, 4)
    found = pruned(wanted, gram)
    assert of_four(found)
    best = [min(least(row, gram[0], (pair,)) for pair in itertools.combinations(range(4), 2)) for row in wanted[0]]
    np.testing.assert_allclose(cost(found, wanted, gram)[0], best, rtol=1e-6)


def test_of_two_fours_it_is_near_the_best_of_all_choices_and_nearer_than_by_size() -> None:
    wanted, gram = problem(24, 8)
    found = cost(pruned(wanted, gram), wanted, gram)[0]
    pairs = tuple(itertools.combinations(range(4), 2))
    best = np.array(
        [min(least(row, gram[0], choice) for choice in itertools.product(pairs, pairs)) for row in wanted[0]]
    )
    small = np.argsort(np.abs(wanted[0]).reshape(-1, 2, 4), axis=-1)[..., :2]
    by_size = [
        least(row, gram[0], tuple((int(a), int(b)) for a, b in choice))
        for row, choice in zip(wanted[0], small, strict=True)
    ]
    assert np.median(found / best) < 1.3
    assert found.sum() < 0.9 * np.sum(by_size)


def test_what_stays_is_fitted_in_one_go() -> None:
    wanted, gram = problem(8, 264)  # more than a block of columns
    found = pruned(wanted, gram)
    assert of_four(found)
    for row, values in zip(wanted[0], found[0], strict=True):
        pairs = tuple(tuple(np.flatnonzero(four == 0)[:2]) for four in values.reshape(-1, 4))
        assert cost(values[None, None], row[None, None], gram)[0, 0] < 1.02 * least(row, gram[0], pairs)


def test_of_two_inputs_that_are_one_and_the_same_not_both_go() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((256, 4))
    x[:, 1] = x[:, 0]
    wanted = np.array([[[1.0, 1.0, 1.2, 0.1]]])  # together 2 of the same input: more than the third
    found = pruned(wanted, damped((x.T @ x)[None]))[0, 0]
    assert max(found[0], found[1]) == pytest.approx(2, abs=0.1)
    assert found[2] == pytest.approx(1.2, abs=0.2)


def test_fours_lie_along_the_inputs_at_one_place_of_the_kernel() -> None:
    (layer, *_) = [one for one in layers_of(conv_net().graph) if one.channels_in == 16]
    order = along_inputs(layer)
    channels, places = np.unravel_index(order, (16, 9))
    assert channels[:4].tolist() == [0, 1, 2, 3]
    assert set(places[:16]) == {0}
    assert sorted(order) == list(range(144))


def test_the_pattern_is_there_and_answers_stay_near() -> None:
    model, random = conv_net(), np.random.default_rng(0)
    feeds = [{"image": random.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(8)]
    told: list[str] = []
    made = sparsify(model, feeds, multiple=16, fewest_weights=0, samples=8, done=told.append)
    assert list(made.layers) == told
    assert sparsity_of(model).of_four == len(made.layers) > 0
    assert list(made.whole.values()) == ["3 inputs are no multiple of 16"]
    assert all(np.isfinite(numpy_helper.to_array(tensor)).all() for tensor in model.graph.initializer)


def test_what_stays_whole_says_why() -> None:
    depthwise = [layer for layer in layers_of(depthwise_net().graph) if layer.groups > 1]
    assert why_whole(depthwise[0], 16, 0) == "1 inputs in each group are no multiple of 16"
    plain = next(layer for layer in layers_of(conv_net().graph) if layer.channels_in == 16)
    assert why_whole(plain, 16, 0) == ""
    assert why_whole(plain, 16, 100_000) == "it has less than 100000 weights"
