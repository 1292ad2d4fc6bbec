"""Whether labels belong to a model's answers at all: a drop in accuracy means nothing where there is no accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mlopt.artifact import Artifact
from mlopt.check.accuracy import answers
from mlopt.errors import LabelsMismatch
from mlopt.intervals import proportion
from mlopt.units import format_percent

if TYPE_CHECKING:
    import numpy as np

# A model that is right by chance has kappa 0, a useful one 0.2 at least; what stays below this knows nothing of them.
_KNOWS: Final = 0.1
# Class indices that start at 1, or a background class at 0 that only the model or only the labels have.
_SHIFTS: Final = (1, -1)


def check_labels(outcomes: Artifact, labels: np.ndarray, *, offset: int, where: str) -> None:
    """Raise `LabelsMismatch` when the baseline is, with 95 % confidence, hardly more often right than by chance.

    Chance is what two independent listings with these class frequencies have in common (Cohen 1960, "A coefficient
    of agreement for nominal scales"). `labels` int64 [samples], with `offset` added already; `outcomes` are the
    baseline's. Where another offset makes them fit, the error names it. Few samples prove no mismatch.
    """
    best = answers(outcomes)
    if best is None:
        return
    right = int((best == labels).sum())
    chance = _chance(best, labels)
    if _kappa(proportion(right, len(best)).high, chance) >= _KNOWS:
        return
    what = (
        f"The labels do not fit the model: it is right on {right} of {len(best)} samples, "
        f"and {format_percent(chance)} are right by chance"
    )
    for shift in _SHIFTS:
        shifted = proportion(int((best == labels + shift).sum()), len(best))
        if _kappa(shifted.low, _chance(best, labels + shift)) >= _KNOWS:
            raise LabelsMismatch(
                f"{what}; with every label {shift:+d} it is right on {format_percent(shifted.value)}.",
                where=where,
                next=f"say label-offset = {offset + shift} under [samples] in mlopt.toml",
            )
    raise LabelsMismatch(
        f"{what}.",
        where=where,
        next="correct the labels, or [preprocess] in mlopt.toml; or say labels = false under [samples], "
        "and variants are judged by their agreement with the baseline",
    )


def _kappa(right: float, chance: float) -> float:
    return (right - chance) / (1 - chance) if chance < 1 else 1.0


def _chance(best: np.ndarray, labels: np.ndarray) -> float:
    import numpy as np

    classes = int(max(best.max(), labels.max())) + 2
    frequency = [np.bincount(np.maximum(side, 0), minlength=classes) / len(side) for side in (best, labels)]
    return float(frequency[0] @ frequency[1])
