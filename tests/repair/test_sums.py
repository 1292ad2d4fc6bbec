"""Sums over patches: the same bits however the patches lie in memory, and in however many pieces they come."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.repair.moments import Sums, _together, aim
from mlopt.repair.rounding import Problem


@pytest.mark.parametrize("shape", [(1, 8, 16), (1, 16, 8), (6, 1, 9)])
def test_how_patches_lie_changes_no_bit(shape: tuple[int, int, int]) -> None:
    """Products of matrices round by the order of their arrays; the gather of a 1×1 convolution is a turned view."""
    groups, _, columns = shape
    generator = np.random.default_rng(0)
    weights = generator.standard_normal(shape)
    pieces = [generator.standard_normal((2, groups, 37, columns)).astype(np.float32) for _ in range(5)]
    plain, turned = Sums(weights), Sums(weights)
    for pair in pieces:
        plain.add((pair[0], pair[1]))
        one, other = (np.ascontiguousarray(each.transpose(0, 2, 1)).transpose(0, 2, 1) for each in pair)
        turned.add((one, other))
    for one, other in zip(_fields(plain), _fields(turned), strict=True):
        assert np.array_equal(one, other)
    assert plain.moments(centred=True).count == 5 * 37


def _fields(sums: Sums) -> list[np.ndarray]:
    found = sums.moments(centred=False)
    return [found.exact, found.quantized, found.wanted, found.gram]


def test_inputs_that_hardly_vary_can_be_inverted() -> None:
    """Without its mean, what is left of such a tensor is rounding in single precision: no matrix of any sums."""
    generator = np.random.default_rng(0)
    weights = generator.standard_normal((1, 4, 32))
    sums = Sums(weights)
    means = generator.uniform(1, 1000, 32)
    patches = (means + 1e-3 * generator.standard_normal((1, 200, 32))).astype(np.float32)
    sums.add((patches, patches))
    wanted, gram = aim(weights, sums.moments(centred=True), hold=10.0)
    assert np.linalg.eigvalsh(gram).min() < 0, "which is what this is about"
    problem = Problem.of(wanted, gram)
    assert np.allclose(
        problem.root @ problem.gram[:, problem.order][:, :, problem.order] @ problem.root.swapaxes(1, 2), np.eye(32)
    )


def test_pieces_are_bounded_by_what_they_hold_and_wide_products_are_few() -> None:
    narrow, wide = np.zeros((1, 8, 256)), np.zeros((1, 1, 8192))
    assert _together(4 * 128 * 256, narrow, 64) == 16, "a quarter of the samples"
    assert _together(1 << 24, narrow, 64) == 2, "as many as 32 MiB hold"
    assert _together(1 << 30, narrow, 64) == 1
    assert _together(4 * 8192, wide, 64) >= 64, "one product, which is larger than all that is multiplied"
