"""From a histogram of values to the range to quantize: where to clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlopt.steps.histogram import Histogram, Range

if TYPE_CHECKING:
    import numpy as np

_EPSILON: Final = 1e-4  # what an empty bin counts in a divergence
_NEAR: Final = 1e-3  # of the least divergence; float32 was seen to be off by 5e-5 of it
_NOUGHT: Final = 1e-6  # divergences below this are none
_GRID: Final = 32  # steps between nothing and the extreme in each round of the search
_ROUNDS: Final = 3


def percentile(seen: Histogram, percent: float) -> Range:
    """Cut at most (100 - percent) / 2 percent of the values at either end, exact to one bin."""
    import numpy as np

    share = np.cumsum(seen.counts) / seen.counts.sum()
    tail = (1 - percent / 100) / 2
    low = seen.edges[np.searchsorted(share, tail)]
    high = seen.edges[np.searchsorted(share, 1 - tail) + 1]
    return Range(max(float(low), seen.low), min(float(high), seen.high))


def entropy(seen: Histogram, quantized_bins: int) -> Range:
    """The range whose quantized histogram diverges least from the full one (Migacz, "8-bit inference with TensorRT",
    GTC 2017), as `HistogramCollector.get_entropy_threshold` of ONNX Runtime finds it.

    Windows of 2 i + 1 bins about zero are tried; what lies outside is added to a window's end bins (p), the inside is
    merged into `quantized_bins` and spread out again (q); the least Kullback-Leibler divergence of q from p wins. The
    window is as wide below zero as above, so it fits a symmetric scheme; it is cut to the extremes, so what
    was never negative keeps its zero point at the end.
    """
    import numpy as np

    if seen.low == seen.high == 0:
        return Range(0.0, 0.0)
    half = seen.bins // 2
    inner = np.arange(quantized_bins // 2, half + 1)
    first, stop = half - inner, np.minimum(half + inner + 1, seen.bins)
    found = _divergences(seen.counts, first, stop, quantized_bins)
    least = float(found.min())
    if not np.isfinite(least):  # all that was seen lies past the last whole group
        return Range(seen.low, seen.high)
    # ONNX Runtime sums in float32, which cannot tell windows apart that are as near as these: its sums decide here
    # too, so that both tools choose the same one.
    near = np.flatnonzero(found <= least + max(_NEAR * least, _NOUGHT))
    again = [_in_float32(seen.counts, first[each], stop[each], quantized_bins) for each in near]
    best = int(near[np.argmin(again)])
    low, high = seen.edges[first[best]], seen.edges[stop[best]]
    return Range(max(float(low), seen.low), min(float(high), seen.high))


def _divergences(counts: np.ndarray, first: np.ndarray, stop: np.ndarray, groups: int) -> np.ndarray:
    """KL(p || q) of each window counts[first:stop], from running sums. `total` and `filled` are the running sums of
    counts and of bins that are not empty; bins past the last whole group have no q, as in ONNX Runtime."""
    import numpy as np

    total, filled = (np.concatenate([[0], np.cumsum(each)]) for each in (counts, counts > 0))
    size = stop - first
    width = size // groups
    bounds = first[:, None] + width[:, None] * np.arange(groups + 1)
    rest = bounds[:, -1]
    inside, used = np.diff(total[bounds], axis=1), np.diff(filled[bounds], axis=1)
    below, above = total[first], total[-1] - total[stop]
    # The end bins hold the outliers: they may be filled only for that.
    newly_first, newly_last = (below > 0) & (counts[first] == 0), (above > 0) & (counts[stop - 1] == 0)
    even = rest == stop  # the last bin belongs to the last group, not to the rest
    used[:, 0] += newly_first
    used[:, -1] += even & newly_last
    p = inside.copy()
    p[:, 0] += below
    p[:, -1] += np.where(even, above, 0)
    p_rest = total[stop] - total[rest] + np.where(even, 0, above)
    inside[:, -1] += total[stop] - total[rest]
    q = np.where(used > 0, inside // np.maximum(used, 1), 0)
    p_used = filled[stop] - filled[first] + newly_first + newly_last
    q_used = width * (q > 0).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # a window without any value is infinite below
        p_taken, q_taken = _EPSILON * (size - p_used) / p_used, _EPSILON * (size - q_used) / q_used
        rest_used = filled[stop] - filled[rest] + np.where(even, 0, newly_last)
        smooth = p - p_taken[:, None] * used + _EPSILON * (width[:, None] - used)
        smooth_rest = p_rest - p_taken * rest_used + _EPSILON * (stop - rest - rest_used)
        log_q = np.log(np.where(q > 0, q - q_taken[:, None], _EPSILON))
        cross = (smooth * log_q).sum(axis=1) + smooth_rest * np.log(_EPSILON)
        own = _own(counts, first, stop, p_taken, filled) + (size - p_used) * _EPSILON * np.log(_EPSILON)
        for bins, outliers in ((first, below), (stop - 1, above)):
            plain = np.where(counts[bins] > 0, _x_log_x(counts[bins] - p_taken), 0)
            own += np.where(outliers > 0, _x_log_x(counts[bins] + outliers - p_taken) - plain, 0)
        found: np.ndarray = (own - cross) / total[-1] - np.log(total[-1]) + np.log((q * width[:, None]).sum(axis=1))
    found[(p_used == 0) | (q_used == 0)] = np.inf
    return found


def _in_float32(counts: np.ndarray, first: int, stop: int, groups: int) -> float:
    """`_divergences` of one window, bin by bin, with the roundings of ONNX Runtime's `entropy`."""
    import numpy as np

    inside = counts[first:stop]
    p, q = inside.copy(), np.zeros_like(inside)
    p[0] += counts[:first].sum()
    p[-1] += counts[stop:].sum()
    width = inside.size // groups
    whole = width * groups
    merged = inside[:whole].reshape(groups, width).sum(axis=1)
    merged[-1] += inside[whole:].sum()
    used = np.count_nonzero(p[:whole].reshape(groups, width), axis=1)
    q[:whole] = np.repeat(np.where(used > 0, merged // np.maximum(used, 1), 0), width)
    p_share, q_share = (_smoothed(each) for each in (p, q))
    return float((p_share * np.log(p_share / q_share)).sum())


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """float32 shares, with `_EPSILON` in each empty bin, taken off the filled ones."""
    import numpy as np

    empty = (counts == 0).astype(np.float32)
    taken = _EPSILON * float(empty.sum()) / float(counts.size - empty.sum())
    found = counts.astype(np.float32)
    found += _EPSILON * empty + (-taken) * (1 - empty)
    shares: np.ndarray = found / found.sum()
    return shares


def _own(counts: np.ndarray, first: np.ndarray, stop: np.ndarray, taken: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """The sum of c log c over the filled bins of each window, with `taken` off each c."""
    import numpy as np

    values = counts[counts > 0].astype(np.float64)
    rows = zip(filled[first], filled[stop], taken, strict=True)
    return np.array([_x_log_x(values[begin:end] - off).sum() for begin, end, off in rows])


def _x_log_x(x: np.ndarray) -> np.ndarray:
    import numpy as np

    found: np.ndarray = x * np.log(x)
    return found


def least_squares(seen: Histogram, *, symmetric: bool) -> Range:
    """The range with the least expected squared error of rounding and clipping together (`mse`).

    Always holds zero. `symmetric`: int8 from -127 to 127 about zero; else 256 levels with a zero point that
    is rounded, low and high each searched for. A grid of shares of the extremes is refined about its best
    point until the steps are 1/8192 of the extremes.
    """
    import numpy as np

    lowest, highest = min(seen.low, 0.0), max(seen.high, 0.0)
    if symmetric:
        highest = max(-lowest, highest)
        lowest = -highest
    if lowest == highest:
        return Range(0.0, 0.0)
    best_low, best_high, radius = 0.5, 0.5, 0.5
    for _ in range(_ROUNDS):
        around = np.linspace(-radius, radius, _GRID + 1)
        low, high = np.clip(best_low + around, 0, 1), np.clip(best_high + around, 0, 1)
        if not symmetric:
            low, high = (each.ravel() for each in np.meshgrid(low if lowest else [0.0], high if highest else [0.0]))
        wide = high * highest > low * lowest
        low, high = low[wide], high[wide]
        best = int(np.argmin(_squared_errors(seen, low * lowest, high * highest, 254 if symmetric else 255)))
        best_low, best_high = float(low[best]), float(high[best])
        radius = 2 * radius / _GRID
    return Range(best_low * lowest, best_high * highest)


def _squared_errors(seen: Histogram, low: np.ndarray, high: np.ndarray, steps: int) -> np.ndarray:
    """Sum of squared differences between what was counted (at its bin's centre) and its nearest level, per range.

    A level v takes the bins between two running sums: its error is S2 - 2 v S1 + v² S0, and S2 adds up to the same
    for every range.
    """
    import numpy as np

    centres = (seen.edges[:-1] + seen.edges[1:]) / 2
    weights = [seen.counts, seen.counts * centres]
    count, first = (np.concatenate([[0.0], np.cumsum(each)]) for each in weights)
    scale = ((high - low) / steps)[:, None]
    levels = (np.arange(steps + 1) - np.round(-low[:, None] / scale)) * scale
    between = (levels[:, 1:] - scale / 2 + seen.reach) * (seen.bins / (2 * seen.reach))
    bounds = np.zeros((len(low), steps + 2), dtype=np.intp)
    bounds[:, 1:-1] = np.clip(np.ceil(between - 0.5), 0, seen.bins)
    bounds[:, -1] = seen.bins
    gained = (levels * (2 * np.diff(first[bounds], axis=1) - levels * np.diff(count[bounds], axis=1))).sum(axis=1)
    errors: np.ndarray = (seen.counts * centres**2).sum() - gained
    return errors
