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
# Answers that change, for each part of noise in the scores (amplitudes): seven trained nets on pictures had 0.3 to 2.1
# in bf16, and 0.2 to 3.2 with ranges of each query (docs/decisions/59-ranges-of-each-query.md).
_CHANGES: Final = 3.2


def rounds_alone(precision: str, steps: Iterable[str]) -> bool:
    """Whether a recipe of this precision and these steps, by name, changes nothing but how numbers are rounded."""
    names = frozenset(steps)
    return (precision in _PRECISIONS and names <= _STEPS) or (precision == "int8" and names == _HYBRID)


def judges(accuracy: Accuracy) -> bool:
    """Whether the comparison of a variant that only rounds is judged by its noise. On generated inputs a classifier
    takes few classes, by margins that are nothing like those of data: how many answers stay says little, and hangs on
    ties."""
    return accuracy.generated and accuracy.agreement is not None


def least_sqnr(agreement: float) -> float:
    """The SQNR in decibel at which about this share of answers to real inputs stays, estimated with caution.

    >>> round(least_sqnr(0.95), 1), round(least_sqnr(0.99), 1), least_sqnr(1.0)
    (36.1, 50.1, inf)
    """
    return 20 * math.log10(_CHANGES / (1 - agreement)) if agreement < 1 else math.inf


def why(agreement: float | None) -> str:
    """Where that limit comes from; empty where the profile asks for no agreement."""
    if agreement is None:
        return ""
    return (
        f"rounding alone is judged by its noise on generated inputs, so that {format_percent(agreement)} of answers to "
        "real ones likely stay; no accuracy was measured"
    )
