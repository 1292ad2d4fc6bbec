"""The streaming histogram counts what NumPy counts with everything in memory, in whatever order it comes."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.steps.histogram import Histogram, Range


def counted(parts: list[np.ndarray], bins: int, reach: float = 0.0) -> Histogram:
    seen = Histogram(bins, reach=reach)
    for part in parts:
        seen.add(part, Range(float(part.min()), float(part.max())))
    return seen


@pytest.fixture
def parts() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [
        (draw.standard_normal(size) * scale).astype(np.float32) for size, scale in ((5, 0.01), (99_999, 3), (7, 900))
    ]


def test_counts_as_numpy_does(parts: list[np.ndarray]) -> None:
    values = np.concatenate(parts).astype(np.float64)
    seen = counted(parts, 512)
    expected, edges = np.histogram(values, 512, range=(-seen.reach, seen.reach))
    assert (seen.counts == expected).all()
    assert np.array_equal(seen.edges, edges)
    assert seen.reach / 2 <= np.abs(values).max() < seen.reach
    assert (seen.low, seen.high) == (values.min(), values.max())


def test_neither_order_nor_batches_matter(parts: list[np.ndarray]) -> None:
    seen = counted(parts, 512)
    for others in (parts[::-1], [np.concatenate(parts)], [part.reshape(-1, 1) for part in parts]):
        other = counted(others, 512)
        assert (other.counts == seen.counts).all()
        assert other.reach == seen.reach


def test_given_extremes_both_lie_inside() -> None:
    values = np.array([-3.0, -0.0, 0.0, 3.0], np.float32)
    seen = counted([values], 4, reach=3.0)
    assert seen.counts.tolist() == [1, 0, 2, 1]
    assert seen.counts.sum() == values.size


@pytest.mark.parametrize("bins", [400, 2048])
def test_the_lowest_value_is_in_the_first_bin(bins: int) -> None:
    for low in np.linspace(-7, -5, 300, dtype=np.float32):  # for some, bins / reach is rounded up
        seen = counted([np.array([low, 0], np.float32)], bins, reach=-float(low))
        assert seen.counts[[0, bins // 2, -1]].tolist() == [1, 1, 0], low


def test_zeros_alone_then_values() -> None:
    seen = counted([np.zeros(3, np.float32), np.array([1e-40, 2.0], np.float32)], 8)
    assert seen.counts.sum() == 5
    assert seen.reach == 4.0
    assert seen.counts.tolist() == [0, 0, 0, 0, 4, 0, 1, 0]
