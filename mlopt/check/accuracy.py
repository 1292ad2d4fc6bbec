"""How a candidate answers against its baseline, sample by sample, with what that sample size can prove."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from mlopt.artifact import Artifact
from mlopt.intervals import paired_difference, proportion
from mlopt.measurement import Accuracy, Grade, Interval

if TYPE_CHECKING:
    import numpy as np

_ROWS: Final = 256


def compare(
    baseline: Artifact,
    candidate: Artifact,
    *,
    labels: np.ndarray | None,
    generated: bool,
    device: str,
    grade: Grade,
) -> Accuracy:
    """Two `outcomes` artifacts of the same samples to one `Accuracy`.

    A model whose first output is [samples, classes] is a classifier: it gets agreement, and top-1 with
    labels. Everything gets cosine and SQNR, over all outputs. Arrays are read in blocks of rows.
    """
    import numpy as np

    total = 0
    same = np.zeros(3, dtype=np.int64)  # agreeing, only the baseline right, only the candidate right
    right = np.zeros(2, dtype=np.int64)
    signal, noise, cosine = _zeros(baseline)
    classifies = _is_classifier(baseline)
    for start, pairs in _blocks(baseline, candidate):
        for position, (one, other) in enumerate(pairs):
            signal[position] += float(np.square(one, dtype=np.float64).sum())
            noise[position] += float(np.square(one.astype(np.float64) - other).sum())
            cosine[position] += _cosines(one, other)
        if classifies:
            first, second = pairs[0][0].argmax(axis=1), pairs[0][1].argmax(axis=1)
            same[0] += int((first == second).sum())
            if labels is not None:
                truth = labels[start : start + len(first)]
                hit, hit_other = first == truth, second == truth
                right += [hit.sum(), hit_other.sum()]
                same[1:] += [(hit & ~hit_other).sum(), (~hit & hit_other).sum()]
        total += len(pairs[0][0])
    labelled = classifies and labels is not None
    return Accuracy(
        device=device,
        grade=grade,
        samples=total,
        labelled=labelled,
        generated=generated,
        top1=float(right[1] / total) if labelled else None,
        baseline_top1=float(right[0] / total) if labelled else None,
        drop=paired_difference(int(same[1]), int(same[2]), total) if labelled else None,
        agreement=proportion(int(same[0]), total) if classifies else None,
        cosine=min(value / total for value in cosine),
        sqnr=min(_decibel(s, n) for s, n in zip(signal, noise, strict=True)),
    )


def of_itself(accuracy: Accuracy) -> Accuracy:
    """A model against itself is no estimate: it is the same model, however few the samples are."""
    same = "the same model"
    return dataclasses.replace(
        accuracy,
        drop=Interval(0.0, 0.0, 0.0, same) if accuracy.drop else None,
        agreement=Interval(1.0, 1.0, 1.0, same) if accuracy.agreement else None,
    )


def answers(outcomes: Artifact) -> np.ndarray | None:
    """The class with the highest score for every sample, int64 [samples]; None when the model is no classifier."""
    return _outputs(outcomes)[0].argmax(axis=1) if _is_classifier(outcomes) else None


def _outputs(outcomes: Artifact) -> list[np.ndarray]:
    import numpy as np

    count = len(json.loads(outcomes.main.read_text())["outputs"])
    return [np.load(outcomes.path / f"{position}.npy", mmap_mode="r") for position in range(count)]


def _zeros(outcomes: Artifact) -> tuple[list[float], list[float], list[float]]:
    count = len(json.loads(outcomes.main.read_text())["outputs"])
    return [0.0] * count, [0.0] * count, [0.0] * count


def _is_classifier(outcomes: Artifact) -> bool:
    first = _outputs(outcomes)[0]
    return first.ndim == 2 and first.shape[1] > 1


def _blocks(one: Artifact, other: Artifact) -> Iterator[tuple[int, list[tuple[np.ndarray, np.ndarray]]]]:
    first, second = _outputs(one), _outputs(other)
    for start in range(0, len(first[0]), _ROWS):
        yield start, [(a[start : start + _ROWS], b[start : start + _ROWS]) for a, b in zip(first, second, strict=True)]


def _cosines(one: np.ndarray, other: np.ndarray) -> float:
    """Sum over samples of the cosine between two answers; two all-zero answers are the same answer."""
    import numpy as np

    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (one, other))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    dots = (a * b).sum(axis=1)
    return float(np.where(both_zero, 1.0, dots / np.where(norms > 0, norms, 1.0)).sum())


def _decibel(signal: float, noise: float) -> float:
    if not math.isfinite(noise):
        return -math.inf
    return 10 * math.log10(signal / noise) if signal and noise else (math.inf if not noise else -math.inf)
