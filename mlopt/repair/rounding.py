"""Weights onto a grid of integers, so that what a layer computes changes least: rounding that knows its inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import numpy as np

_DAMPING: Final = 1e-2  # of the mean power of an input, against directions that samples hardly show
_SHRINKS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
_SWEEPS: Final = 3
_BLOCK: Final = 128


@dataclass(frozen=True, slots=True)
class Grid:
    """(code - zero) * scale for codes from `low` to `high`; `scale` and `zero` are [groups, rows, 1]. Where one scale
    holds for the whole tensor (`shared`), all of them are equal."""

    scale: np.ndarray
    zero: np.ndarray
    low: int
    high: int
    shared: bool

    def codes(self, weights: np.ndarray) -> np.ndarray:
        """The nearest ones, float64."""
        import numpy as np

        # Not by np.clip: of single columns its way through Python would take as long as the arithmetic.
        result: np.ndarray = np.minimum(np.maximum(np.rint(weights / self.scale) + self.zero, self.low), self.high)
        return result

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What codes stand for."""
        result: np.ndarray = (codes - self.zero) * self.scale
        return result


def damped(gram: np.ndarray) -> np.ndarray:
    """A Gram matrix [groups, columns, columns] that can be inverted whatever the samples were."""
    import numpy as np

    columns = gram.shape[-1]
    power = np.trace(gram, axis1=1, axis2=2) / columns
    least = max(float(power.max()), 1e-30) * 1e-6
    damp = np.maximum(_DAMPING * power, least)
    result: np.ndarray = gram + damp[:, None, None] * np.eye(columns)
    return result


def rounded(wanted: np.ndarray, gram: np.ndarray, grid: Grid, *, shrink: bool = True) -> tuple[np.ndarray, Grid]:
    """Codes and the grid they are on, so that sum over groups and rows of e G e^T is small, for e = values - wanted.

    `wanted` is [groups, rows, columns], `gram` the damped G. With `shrink` the scale is shrunk where clipping a few
    costs less than rounding many; columns are rounded one after the other, each error made good in those still to come
    (GPTQ, Frantar et al. 2022, arXiv:2210.17323); then the scale is fitted by least squares, and single codes are moved
    as long as that helps.
    """
    grid = _shrunk(wanted, gram, grid) if shrink else grid
    codes = _compensated(wanted, gram, grid)
    for _ in range(2):
        grid = _fitted(codes, wanted, gram, grid)
        codes = _descended(codes, wanted, gram, grid)
    return codes, grid


def cost(values: np.ndarray, wanted: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """e G e^T by group and row."""
    import numpy as np

    apart = values - wanted
    result: np.ndarray = np.einsum("grc,grc->gr", apart @ gram, apart)
    return result


def _shrunk(wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> Grid:
    import numpy as np

    costs = []
    for shrink in _SHRINKS:
        tried = replace(grid, scale=grid.scale * shrink)
        costs.append(cost(tried.values(tried.codes(wanted)), wanted, gram))
    seen = np.stack(costs)
    if grid.shared:
        return replace(grid, scale=grid.scale * _SHRINKS[int(seen.sum(axis=(1, 2)).argmin())])
    return replace(grid, scale=grid.scale * np.asarray(_SHRINKS)[seen.argmin(axis=0)][..., None])


def _compensated(wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> np.ndarray:
    """Column after column, those with the most power first."""
    import numpy as np

    columns = wanted.shape[-1]
    order = np.argsort(-np.einsum("gcc->gc", gram).sum(axis=0), kind="stable")
    left = np.ascontiguousarray(wanted[:, :, order])
    upper = _inverse_root(gram[:, order][:, :, order])
    codes = np.empty_like(left)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        errors = np.empty_like(left[:, :, start:stop])
        for column in range(start, stop):
            now = left[:, :, column : column + 1]
            codes[:, :, column : column + 1] = best = grid.codes(now)
            error = (now - grid.values(best)) / upper[:, None, column, column, None]
            left[:, :, column:stop] -= error * upper[:, None, column, column:stop]
            errors[:, :, column - start : column - start + 1] = error
        left[:, :, stop:] -= errors @ upper[:, start:stop, stop:]
    back = np.empty_like(codes)
    back[:, :, order] = codes
    return back


def _inverse_root(gram: np.ndarray) -> np.ndarray:
    """Upper triangular U with U^T U the inverse of each G [columns, columns].

    G with rows and columns turned round is L L^T, so that G is R R^T for R, L turned round, which is upper triangular;
    and U is the inverse of R. A third of the work of inverting G and factorising that.
    """
    import numpy as np

    lower = np.linalg.cholesky(gram[:, ::-1, ::-1])
    return _inverted(np.ascontiguousarray(lower[:, ::-1, ::-1]))


def _inverted(upper: np.ndarray) -> np.ndarray:
    """The inverse of upper triangular matrices, by halves: what lies between two of them is two products."""
    import numpy as np

    columns = upper.shape[-1]
    if columns <= _BLOCK:
        return np.linalg.inv(upper)
    half = columns // 2
    result = np.zeros_like(upper)
    result[:, :half, :half] = first = _inverted(upper[:, :half, :half])
    result[:, half:, half:] = last = _inverted(upper[:, half:, half:])
    result[:, :half, half:] = -first @ upper[:, :half, half:] @ last
    return result


def _fitted(codes: np.ndarray, wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> Grid:
    """The scale with the least cost for these codes."""
    import numpy as np

    steps = codes - grid.zero
    seen = steps @ gram
    along, own = (np.einsum("grc,grc->gr", seen, each) for each in (wanted, steps))
    if grid.shared:
        along, own = (np.full_like(each, each.sum()) for each in (along, own))
    fits = (along > 0) & (own > 0)
    scale = np.where(fits, along / np.where(fits, own, 1.0), grid.scale[..., 0])[..., None]
    # Scales are stored in single precision, and codes must be right for what is stored.
    return replace(grid, scale=scale.astype(np.float32).astype(np.float64))


def _descended(codes: np.ndarray, wanted: np.ndarray, gram: np.ndarray, grid: Grid) -> np.ndarray:
    """Each code to its best value given the others, column after column, until nothing moves."""
    import numpy as np

    codes = codes.copy()
    slope = (grid.values(codes) - wanted) @ gram
    scale = grid.scale[..., 0]
    steep = np.einsum("gcc->gc", gram)[:, None] * grid.scale
    for _ in range(_SWEEPS):
        moved = False
        for column in range(codes.shape[-1]):
            now = codes[:, :, column]
            best = np.minimum(np.maximum(np.rint(now - slope[:, :, column] / steep[..., column]), grid.low), grid.high)
            change = best - now
            if not change.any():
                continue
            where = np.nonzero(change)  # few rows move, and only theirs is a new slope
            moved = True
            codes[:, :, column] = best
            slope[where] += (change * scale)[where][:, None] * gram[where[0], column]
        if not moved:
            break
    return codes
