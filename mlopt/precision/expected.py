"""How many answers of a classifier noise would change, told from few samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from mlopt.intervals import Changes

if TYPE_CHECKING:
    import numpy as np

_CROSSED: Final = 256  # samples whose noise is tried on one another
_ROUNDING: Final = 1e-6  # of the largest score: more than a sum in float32 is ever off
_SHARPEST: Final = 1e4  # over the mean distance of the second best score
_HALVINGS: Final = 60
_LOWEST: Final = -1e30


@dataclass(frozen=True, slots=True)
class Exact:
    """What the model itself answers: `scores` [samples, classes], and the same `ahead`, the best class first, as
    `order` says. `belief` are the chances that each of those is right, where labels told how sure its scores are."""

    scores: np.ndarray
    ahead: np.ndarray
    order: np.ndarray
    belief: np.ndarray | None

    @classmethod
    def of(cls, answers: np.ndarray, labels: np.ndarray | None = None, *, most: int = _CROSSED) -> Self | None:
        """None unless the answers are [samples, classes]; at most so many of them are looked at."""
        import numpy as np

        if answers.ndim != 2 or answers.shape[1] < 2:
            return None
        scores = _scores(answers[:most])
        order = np.argsort(-scores, axis=1, kind="stable")
        ahead = np.take_along_axis(scores, order, 1)
        return cls(scores, ahead, order, None if labels is None else _belief(ahead, order, labels[: len(ahead)]))

    def changes(self, quantized: np.ndarray, *, scale: float = 1.0) -> Changes:
        """What is expected of other samples, with the noise of `quantized` answers, `scale` times as large.

        Counting on n samples cannot see less than 1 / n. Instead the noise of every sample is tried on every other one:
        n² trials from n samples. It is tried class for class by their places: that of the best on the best, of the
        second on the second, for noise is larger where scores are, and classes that are far behind hardly have any.
        Noise is taken in scores (logarithms, where the outputs are probabilities), where it does not depend on how sure
        the answer is. `quantized` may be answers to the first few samples alone: their noise is tried on all. With
        labels an answer that changes was right, and is, by the chances that the model gives the two classes: labels of
        so few samples say less of the few that change.
        """
        import numpy as np

        rows, known = len(self.ahead), min(len(self.ahead), len(quantized))
        first, second = self.scores[:known], _scores(quantized[:known])
        with np.errstate(invalid="ignore"):  # of a class that is masked out, -inf as before is no noise
            apart = np.where(first == second, np.float32(0), second - first) * np.float32(scale)
        apart = np.take_along_axis(apart, self.order[:known], 1)
        # A class that is further behind the best than any noise could bring it forward need not be looked at.
        with np.errstate(invalid="ignore"):  # what is not finite leaves no class out
            reach = float((apart.max(axis=1) - apart.min(axis=1)).max())
        finite = self.scores[np.isfinite(self.scores)]
        reach += _ROUNDING * float(np.abs(finite).max(initial=0.0) + np.abs(apart).max())
        now = np.empty((rows, known), np.intp)
        for row, scores in enumerate(self.ahead):
            near = len(scores) - int((scores[0] - scores > reach).sum())
            now[row] = (scores[:near] + apart[:, :near]).argmax(axis=1)
        broken = ~np.isfinite(apart).all(axis=1)  # answers that are no numbers are wrong ones
        flips = (now != 0) | broken
        if self.belief is None:
            return Changes(float(flips.mean()), _error(flips))
        lost, won = flips * self.belief[:, :1], (flips & ~broken) * np.take_along_axis(self.belief, now, 1)
        return Changes(float(flips.mean()), _error(flips), float(lost.mean()), float(won.mean()), _error(lost - won))


def _error(trials: np.ndarray) -> float:
    """The standard error of a mean over all pairs of a sample and a noise, which are as many independent things as
    there are samples (Hoeffding 1948, "A class of statistics with asymptotically normal distribution"); and as if one
    more trial had gone the other way, for none that did is no proof."""
    rows, known = trials.shape
    few = min(rows, known)
    if few < 2:
        return 1.0
    ones, others = trials.mean(axis=1), trials.mean(axis=0)
    # Of a sample whose noise is known both means count together.
    spread = (ones + others).var() / (few - 1) if rows == known else ones.var() / (rows - 1) + others.var() / (few - 1)
    return math.sqrt(float(spread) + few**-3)


def _belief(ahead: np.ndarray, order: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Chances of the classes, float64 [samples, classes]: the softmax of scores, at the temperature with which labels
    are likeliest (Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599). As if one sample more
    had been half wrong, lest a model that is right on all be believed without limit (Platt 1999)."""
    import numpy as np

    behind = ahead[:, :1].astype(np.float64) - np.maximum(ahead, _LOWEST)  # a class that is masked out may have -inf
    there = order == labels[:, None]
    told = float(behind[there].sum()) / len(behind)
    told += float(behind[:, 1].mean()) / (2 * len(behind) + 2)

    def chances(sharp: float) -> np.ndarray:
        powers = np.exp(-sharp * behind)
        result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return result

    # The likelihood of a softmax is concave in its sharpness: expected and seen distances to the best meet once.
    low, high = 0.0, _SHARPEST / max(float(behind[:, 1].mean()), 1e-30)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        expected = float((chances(middle) * behind).sum(axis=1).mean())
        low, high = (middle, high) if expected > told else (low, middle)
    return chances(low)


def _scores(outputs: np.ndarray) -> np.ndarray:
    import numpy as np

    probabilities = outputs.min() >= 0 and np.allclose(outputs.sum(axis=1), 1, atol=1e-3)
    return np.log(np.maximum(outputs, np.float32(1e-9))) if probabilities else outputs
