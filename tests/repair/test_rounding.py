"""Rounding that knows its inputs: on the grid, the same twice, and nearer than rounding to the nearest."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.repair.rounding import Grid, Problem, cost, damped, rounded


def problem(groups: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((groups, columns, columns)) + 1.5
    inputs = random.standard_normal((groups, 400, columns)) @ mixed
    return random.standard_normal((groups, rows, columns)), damped(np.swapaxes(inputs, 1, 2) @ inputs)


def grid(weights: np.ndarray, *, shared: bool, low: int, high: int) -> Grid:
    reach = np.abs(weights).max(axis=None if shared else 2, keepdims=True)
    scale = np.broadcast_to(reach / 7, (*weights.shape[:2], 1)).copy()
    return Grid(scale, np.full_like(scale, (low + high + 1) // 2), low, high, shared)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(("low", "high"), [(-7, 7), (0, 15)])
@pytest.mark.parametrize(("groups", "rows", "columns"), [(1, 12, 200), (16, 1, 9), (2, 4, 18)])
def test_less_is_lost_than_by_rounding_to_the_nearest(
    groups: int, rows: int, columns: int, low: int, high: int, shared: bool
) -> None:
    wanted, gram = problem(groups, rows, columns)
    start = grid(wanted, shared=shared, low=low, high=high)
    codes, found = rounded(Problem.of(wanted, gram), start)
    assert np.array_equal(codes, np.rint(codes))
    assert codes.min() >= low
    assert codes.max() <= high
    assert np.array_equal(found.zero, start.zero)
    assert len(np.unique(found.scale)) == (1 if shared else groups * rows)
    nearest = cost(start.values(start.codes(wanted)), wanted, gram).sum()
    assert cost(found.values(codes), wanted, gram).sum() < 0.5 * nearest
    again, _ = rounded(Problem.of(wanted, gram), start)
    assert np.array_equal(codes, again)


def test_inputs_that_were_always_zero_do_no_harm() -> None:
    wanted, gram = problem(1, 4, 8)
    for nothing in (np.zeros_like(gram), gram * (np.arange(8) != 3) * (np.arange(8) != 3)[:, None]):
        start = grid(wanted, shared=False, low=-127, high=127)
        codes, found = rounded(Problem.of(wanted, damped(nothing)), start)
        assert np.isfinite(found.values(codes)).all()
        assert np.abs(found.values(codes) - wanted).max() < 2 * start.scale.max()


def test_rows_are_settled_by_themselves() -> None:
    """However many cores there are: a block's rows alone give the same codes."""
    wanted, gram = problem(1, 300, 40)
    start = grid(wanted, shared=False, low=-7, high=7)
    whole = Problem.of(wanted, gram)
    codes, found = rounded(whole, start)
    for rows in (slice(0, 256), slice(256, 300)):
        alone, scales = rounded(whole.rows(rows), start.rows(rows))
        assert np.array_equal(codes[:, rows], alone)
        assert np.array_equal(found.scale[:, rows], scales.scale)
    assert (found.low, found.high, found.shared) == (-7, 7, False)
