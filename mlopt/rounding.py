"""What arithmetic that only rounds may do to answers where nobody gave samples: judged by its noise, not by ties."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mlopt.units import format_percent

if TYPE_CHECKING:
    from mlopt.measurement import Accuracy

# These have float32's range: no input, however large, overflows that did not before, and no range was taken from
# samples. fp16 ends at 65504, and what real inputs lead to inside a net, generated ones do not tell.
_PRECISIONS: Final = frozenset({"bf16", "fp32"})
# Any other may change what is computed; transpositions move numbers, and change none.
_STEPS: Final = frozenset({"optimize-graph", "set-precision", "split-transposes"})
# Integers whose range is that of each query.
_HYBRID: Final = frozenset({"quantize-hybrid", "to-tflite"})
# Answers that change, for each part of noise in the scores (amplitudes), estimated with caution. In bf16 four trained
# nets had 0.5, 1.4, 1.4 and 2.2; with ranges of each query six had up to 4.1, by the noise on generated inputs
# (docs/decisions/59-ranges-of-each-query.md).
_CHANGES: Final = 2.8
HYBRID_CHANGES: Final = 4.5


def changes_by_noise(precision: str, steps: Iterable[str]) -> float:
    """Of a recipe of this precision and these steps, by name, that changes nothing but how numbers are rounded: how
    many answers change at most for each part of noise. 0 of any other."""
    names = frozenset(steps)
    if precision in _PRECISIONS and names <= _STEPS:
        return _CHANGES
    return HYBRID_CHANGES if precision == "int8" and names == _HYBRID else 0.0


def judges(accuracy: Accuracy) -> bool:
    """Whether the comparison of a variant that only rounds is judged by its noise. On generated inputs a classifier
    takes few classes, by margins that are nothing like those of data: how many answers stay says little, and hangs on
    ties."""
    return accuracy.generated and accuracy.agreement is not None


def least_sqnr(agreement: float, changes: float) -> float:
    """The SQNR in decibel at which about this share of answers to real inputs stays, with so many `changes_by_noise`.

    >>> round(least_sqnr(0.95, 2.8), 1), round(least_sqnr(0.99, 2.8), 1), least_sqnr(1.0, 2.8)
    (35.0, 48.9, inf)
    """
    return 20 * math.log10(changes / (1 - agreement)) if agreement < 1 else math.inf


def why(agreement: float | None) -> str:
    """Where that limit comes from; empty where the profile asks for no agreement."""
    if agreement is None:
        return ""
    return (
        f"rounding alone is judged by its noise on generated inputs, so that {format_percent(agreement)} of answers to "
        "real ones likely stay; no accuracy was measured"
    )
