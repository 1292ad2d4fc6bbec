"""Sums over patches: the same bits however the patches lie in memory, and in however many pieces they come."""

from __future__ import annotations

import numpy as np
import pytest

from mlopt.repair.repair import _Sums


@pytest.mark.parametrize("shape", [(1, 8, 16), (1, 16, 8), (6, 1, 9)])
def test_how_patches_lie_changes_no_bit(shape: tuple[int, int, int]) -> None:
    """Products of matrices round by the order of their arrays; the gather of a 1×1 convolution is a turned view."""
    groups, _, columns = shape
    generator = np.random.default_rng(0)
    weights = generator.standard_normal(shape)
    pieces = [generator.standard_normal((2, groups, 37, columns)).astype(np.float32) for _ in range(5)]
    plain, turned = _Sums(weights), _Sums(weights)
    for exact, quantized in pieces:
        plain.add(exact, quantized)
        turned.add(*(np.ascontiguousarray(each.transpose(0, 2, 1)).transpose(0, 2, 1) for each in (exact, quantized)))
    for one, other in zip(_fields(plain), _fields(turned), strict=True):
        assert np.array_equal(one, other)
    assert plain.moments(centred=True).count == 5 * 37


def _fields(sums: _Sums) -> list[np.ndarray]:
    found = sums.moments(centred=False)
    return [found.exact, found.quantized, found.wanted, found.gram]
