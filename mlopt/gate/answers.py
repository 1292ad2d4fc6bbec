"""The answers of both, sample by sample: the exact test of McNemar, and answers that are no numbers."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlopt.artifact import Artifact
from mlopt.gate.result import NAN, Answers, Check, NotCompared, Verdict
from mlopt.intervals import paired_difference, samples_needed

if TYPE_CHECKING:
    import numpy as np

ERROR: Final = 0.01
_METRIC: Final = "top1"
_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class Right:
    """Which samples a model answers right, bool [samples], and the digest of the samples."""

    samples: str
    right: np.ndarray

    def stored(self) -> Answers:
        import numpy as np

        return Answers(self.samples, len(self.right), np.packbits(self.right).tobytes().hex())

    @classmethod
    def of(cls, stored: Answers) -> Right:
        import numpy as np

        bits = np.unpackbits(np.frombuffer(bytes.fromhex(stored.right), dtype=np.uint8))[: stored.count]
        return cls(stored.samples, bits.astype(bool))


def right_of(outcomes: Artifact, labels: np.ndarray | None, samples: str) -> Right | None:
    """None where there are no labels, or the model is no classifier."""
    from mlopt.check.accuracy import answers

    found = answers(outcomes) if labels is not None else None
    return None if found is None else Right(samples, found == labels)


def compare_answers(baseline: Right | None, candidate: Right | None, margin: float) -> Check | NotCompared:
    """`fail`: significantly more answers lost than won, and by more than the margin. `pass`: the upper end of the
    95 % interval of what is lost is within the margin."""
    if candidate is None:
        return NotCompared(_METRIC, "there are no labels: give --samples with some")
    if baseline is None:
        return NotCompared(_METRIC, "the stored baseline holds no answers: make it with --samples")
    if baseline.samples != candidate.samples:
        return NotCompared(_METRIC, "the stored baseline was made on other samples")
    count = len(candidate.right)
    lost = int((baseline.right & ~candidate.right).sum())
    won = int((~baseline.right & candidate.right).sum())
    drop = paired_difference(lost, won, count)
    chance = mcnemar(lost, won)
    verdict: Verdict = "inconclusive"
    note = f"{lost} lost, {won} won of {count}; by chance alone in {chance:.2g} of cases"
    if drop.value > margin and chance <= ERROR:
        verdict = "fail"
    elif drop.high <= margin:
        verdict = "pass"
    else:
        needed = samples_needed(margin, drop, count)
        note += f"; about {needed} samples would prove the margin" if needed else ""
    return Check(
        _METRIC,
        "regression",
        verdict,
        "share",
        float(baseline.right.mean()),
        float(candidate.right.mean()),
        drop,
        margin,
        f"exact test of McNemar at {ERROR:.0%} to fail; {drop.method} to pass",
        note,
    )


def mcnemar(lost: int, won: int) -> float:
    """The chance of losing so many or more of the answers that changed, were each as likely won as lost (exact, one
    side; McNemar 1947, "Note on the sampling error of the difference between correlated proportions", Psychometrika).

    >>> mcnemar(0, 0), mcnemar(7, 0), round(mcnemar(15, 5), 4)
    (1.0, 0.0078125, 0.0207)
    """
    changed = lost + won
    as_many: int = sum(math.comb(changed, k) for k in range(lost, changed + 1))
    return as_many / (1 << changed)


def count_nan(outcomes: Artifact) -> int:
    """The samples that have a NaN in some output."""
    import numpy as np

    described = json.loads(outcomes.main.read_text())
    bad = np.zeros(described["samples"], dtype=bool)
    for position in range(len(described["outputs"])):
        array = np.load(outcomes.path / f"{position}.npy", mmap_mode="r")
        for start in range(0, len(array), _ROWS):
            rows = array[start : start + _ROWS].reshape(len(array[start : start + _ROWS]), -1)
            bad[start : start + _ROWS] |= np.isnan(rows).any(axis=1)
    return int(bad.sum())


def check_numbers(baseline: int | None, candidate: int, count: int) -> Check:
    """Whether the candidate answers NaN where the baseline does not. One is enough: it is no matter of chance.

    `baseline` is None where nobody knows what it answers to these samples.
    """
    unknown = baseline is None and candidate > 0
    verdict: Verdict = "inconclusive" if unknown else "fail" if candidate > (baseline or 0) else "pass"
    return Check(
        NAN,
        "regression",
        verdict,
        "count",
        baseline,
        candidate,
        None,
        0.0,
        f"samples of {count} with a NaN in an output",
        "the stored baseline answered other samples, or in other batches: give its model" if unknown else "",
    )
