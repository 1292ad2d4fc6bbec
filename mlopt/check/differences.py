"""How far two arrays are apart, in the terms of `OutputParity`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

_NEAR_ZERO: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Difference:
    """`largest` is max |expected| over finite values; `max_relative` is max |a - b| / (|a| + 1e-3·largest)."""

    max_absolute: float
    max_relative: float
    cosine: float
    largest: float
    integer: bool


def difference(expected: np.ndarray, actual: np.ndarray) -> Difference:
    """Infinite when shapes differ, or when one is not finite where the other is. Equal infinities and NaN agree."""
    import numpy as np

    integer = expected.dtype.kind in "iub"
    if expected.shape != actual.shape:
        return Difference(float("inf"), float("inf"), 0.0, 0.0, integer)
    if not expected.size:
        return Difference(0.0, 0.0, 1.0, 0.0, integer)
    a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return Difference(float("inf"), float("inf"), 0.0, 0.0, integer)
    a, b = a[finite], b[finite]
    largest = float(np.abs(a).max(initial=0.0))
    apart = np.abs(a - b)
    scale = np.abs(a) + _NEAR_ZERO * largest
    # An output that is zero everywhere has no scale of its own: any difference counts in full.
    relative = apart / np.where(scale > 0, scale, 1.0)
    return Difference(float(apart.max(initial=0.0)), float(relative.max(initial=0.0)), _cosine(a, b), largest, integer)


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    import numpy as np

    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    if lengths == 0.0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(np.clip(a @ b / lengths, -1.0, 1.0))
