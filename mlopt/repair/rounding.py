"""Weights onto a grid of integers, so that what a layer computes changes least: rounding that knows its inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from mlopt.parallel import mapped

if TYPE_CHECKING:
    import numpy as np

_DAMPING: Final = 1e-2  # of the mean power of an input, against directions that samples hardly show
_DAMPINGS: Final = 20  # each twice the one before
_SHRINKS: Final = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
_FITS: Final = 2
_SWEEPS: Final = 3
_BLOCK: Final = 128
_ROWS: Final = 256  # that are settled at a time, on a core each
_LEAF: Final = 16  # columns that are settled by arithmetic of vectors; more of them by products of matrices


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

    def rows(self, which: slice) -> Grid:
        """Of some of the rows."""
        return replace(self, scale=self.scale[:, which], zero=self.zero[:, which])


def damped(gram: np.ndarray, off: np.ndarray | float = 0.0) -> np.ndarray:
    """A Gram matrix [groups, columns, columns] that can be inverted whatever the samples were, and if its entries are
    `off` by so much."""
    import numpy as np

    columns = gram.shape[-1]
    power = np.trace(gram, axis1=1, axis2=2) / columns
    least = max(float(power.max()), 1e-30) * 1e-6
    damp = np.maximum(np.maximum(_DAMPING * power, least), off)
    result: np.ndarray = gram + damp[:, None, None] * np.eye(columns)
    return result


@dataclass(frozen=True, slots=True)
class Problem:
    """The weights that are `wanted`, [groups, rows, columns], and the damped Gram matrix that says what it costs to
    be away from them: e G e^T for each row, with e = values - wanted. The rest is computed of these once, for however
    many grids are tried: `pull` is wanted G, `order` the columns by their power, `root` the `inverse_root` of G in that
    order."""

    wanted: np.ndarray
    gram: np.ndarray
    pull: np.ndarray
    order: np.ndarray
    root: np.ndarray

    @classmethod
    def of(cls, wanted: np.ndarray, gram: np.ndarray) -> Problem:
        import numpy as np

        order = np.argsort(-np.einsum("gcc->gc", gram).sum(axis=0), kind="stable")
        for _ in range(_DAMPINGS):
            try:
                return cls(wanted, gram, wanted @ gram, order, inverse_root(gram[:, order][:, :, order]))
            except np.linalg.LinAlgError:  # of inputs that hardly vary, rounding is all that was summed up
                power = np.trace(gram, axis1=1, axis2=2).max() / gram.shape[-1]
                gram = gram + power * np.eye(gram.shape[-1])
        raise FloatingPointError("inputs of a layer are not finite")

    def rows(self, which: slice) -> Problem:
        """Of some of the rows."""
        return replace(self, wanted=self.wanted[:, which], pull=self.pull[:, which])


def rounded(problem: Problem, grid: Grid, *, shrink: bool = True) -> tuple[np.ndarray, Grid]:
    """Codes and the grid they are on, of little cost.

    With `shrink` the scale is shrunk where clipping a few costs less than rounding many; columns are rounded one after
    the other, each error made good in those still to come (GPTQ, Frantar et al. 2022, arXiv:2210.17323); then the scale
    is fitted by least squares, and single codes are moved as long as that helps. Rows with scales of their own are
    settled by themselves.
    """
    import numpy as np

    count = problem.wanted.shape[1]
    if grid.shared or count <= _ROWS:
        return _settled(problem, grid, shrink=shrink)
    some = [slice(start, start + _ROWS) for start in range(0, count, _ROWS)]
    made = list(mapped(lambda rows: _settled(problem.rows(rows), grid.rows(rows), shrink=shrink), some))
    scale = np.concatenate([each.scale for _, each in made], axis=1)
    return np.concatenate([codes for codes, _ in made], axis=1), replace(grid, scale=scale)


def _settled(problem: Problem, grid: Grid, *, shrink: bool) -> tuple[np.ndarray, Grid]:
    grid = _shrunk(problem, grid) if shrink else grid
    codes = _compensated(problem, grid)
    seen = (codes - grid.zero) @ problem.gram
    for _ in range(_FITS):
        grid = _fitted(codes, seen, problem, grid)
        slope = seen * grid.scale - problem.pull
        _descend(codes, slope, problem.gram, grid)
        seen = (slope + problem.pull) / grid.scale
    return codes, grid


def cost(values: np.ndarray, wanted: np.ndarray, gram: np.ndarray) -> np.ndarray:
    """e G e^T by group and row."""
    import numpy as np

    apart = values - wanted
    result: np.ndarray = np.einsum("grc,grc->gr", apart @ gram, apart)
    return result


def inverse_root(gram: np.ndarray) -> np.ndarray:
    """Upper triangular U with U^T U the inverse of each G [columns, columns].

    G with rows and columns turned round is L L^T, so that G is R R^T for R, L turned round, which is upper triangular;
    and U is the inverse of R. A third of the work of inverting G and factorising that.
    """
    import numpy as np

    lower = np.linalg.cholesky(gram[:, ::-1, ::-1])
    return _inverted(np.ascontiguousarray(lower[:, ::-1, ::-1]))


def _shrunk(problem: Problem, grid: Grid) -> Grid:
    import numpy as np

    costs = []
    for shrink in _SHRINKS:
        tried = replace(grid, scale=grid.scale * shrink)
        costs.append(cost(tried.values(tried.codes(problem.wanted)), problem.wanted, problem.gram))
    seen = np.stack(costs)
    if grid.shared:
        return replace(grid, scale=grid.scale * _SHRINKS[int(seen.sum(axis=(1, 2)).argmin())])
    return replace(grid, scale=grid.scale * np.asarray(_SHRINKS)[seen.argmin(axis=0)][..., None])


def _compensated(problem: Problem, grid: Grid) -> np.ndarray:
    """Column after column, those with the most power first."""
    import numpy as np

    # A column's rows lie side by side: it is read and written often.
    left = np.ascontiguousarray(np.swapaxes(problem.wanted[:, :, problem.order], 1, 2))
    codes, errors = np.empty_like(left), np.empty_like(left)
    root, rows = problem.root, replace(grid, scale=grid.scale[..., 0], zero=grid.zero[..., 0])

    def settle(start: int, stop: int) -> None:
        if stop - start > _LEAF:
            middle = (start + stop) // 2
            settle(start, middle)
            left[:, middle:stop] -= np.swapaxes(root[:, start:middle, middle:stop], 1, 2) @ errors[:, start:middle]
            settle(middle, stop)
            return
        for column in range(start, stop):
            now = left[:, column]
            codes[:, column] = best = rows.codes(now)
            errors[:, column] = error = (now - rows.values(best)) / root[:, column, column, None]
            left[:, column + 1 : stop] -= root[:, column, column + 1 : stop, None] * error[:, None]

    settle(0, left.shape[1])
    back = np.empty_like(problem.wanted)
    back[:, :, problem.order] = np.swapaxes(codes, 1, 2)
    return back


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


def _fitted(codes: np.ndarray, seen: np.ndarray, problem: Problem, grid: Grid) -> Grid:
    """The scale with the least cost for these codes; `seen` is their steps times G."""
    import numpy as np

    along, own = (np.einsum("grc,grc->gr", seen, each) for each in (problem.wanted, codes - grid.zero))
    if grid.shared:
        along, own = (np.full_like(each, each.sum()) for each in (along, own))
    fits = (along > 0) & (own > 0)
    scale = np.where(fits, along / np.where(fits, own, 1.0), grid.scale[..., 0])[..., None]
    # Scales are stored in single precision, and codes must be right for what is stored.
    return replace(grid, scale=scale.astype(np.float32).astype(np.float64))


def _descend(codes: np.ndarray, slope: np.ndarray, gram: np.ndarray, grid: Grid) -> None:
    """Move each code to its best value given the others, column after column, until nothing moves; `slope` is e G, and
    follows."""
    import numpy as np

    scale, power = grid.scale[..., 0], np.einsum("gcc->gc", gram)
    for _ in range(_SWEEPS):
        moved = False
        for start in range(0, codes.shape[-1], _BLOCK):
            block = slice(start, min(start + _BLOCK, codes.shape[-1]))
            # Columns side by side in memory, of as many as the cache holds.
            now, ahead = (np.ascontiguousarray(np.moveaxis(each[:, :, block], 2, 0)) for each in (codes, slope))
            for column in range(len(now)):
                steep = power[:, start + column, None] * scale
                best = np.minimum(np.maximum(np.rint(now[column] - ahead[column] / steep), grid.low), grid.high)
                change = best - now[column]
                if not change.any():
                    continue
                moved = True
                now[column] = best
                group, row = where = np.nonzero(change)  # few rows move, and only theirs is a new slope
                line = gram[0, start + column] if len(gram) == 1 else gram[group, start + column]
                more = (change * scale)[where][:, None] * line
                slope[where] += more
                ahead[column + 1 :, group, row] += more[:, start + column + 1 : block.stop].T
            codes[:, :, block] = np.moveaxis(now, 0, 2)
        if not moved:
            break
