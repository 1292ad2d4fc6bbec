"""Ranges of activations, observed on samples: what static quantization takes its scales from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from mlopt.parallel import mapped
from mlopt.steps.calibrators import entropy, least_squares, percentile
from mlopt.steps.histogram import Histogram, Range
from mlopt.steps.watched import Watched

if TYPE_CHECKING:
    import numpy as np

    Feeds = Callable[[], Iterable[Mapping[str, np.ndarray]]]

Calibrator = Literal["min-max", "moving-average", "percentile", "entropy", "mse"]
_BINS: Final = 1 << 14  # over twice the reach: at most 1/16 of a step of eight bits from zero to the extreme
_MOST_BINS: Final = 1 << 13  # with more, `entropy` could take more from filled bins than they hold
_NOTHING: Final = Range(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How what was seen becomes a range.

    * `min-max`: the extremes.
    * `moving-average`: extremes of each query, averaged: the mean of the first 1 / `averaging_constant`, then
      towards every later one by that constant (Jacob et al., "Quantization and Training of Neural Networks for
      Efficient Integer-Arithmetic-Only Inference", CVPR 2018). Past the mean, the order of samples counts.
    * `percentile`: (100 - percentile) / 2 percent are cut at either end.
    * `entropy`: `bins` over the extremes, `quantized_bins` of them told apart; see `calibrators.entropy`. With as many
      bins as quantized ones there is nothing to choose, and the ranges are those of `min-max`.
    * `mse`: least squared error of rounding and clipping; see `calibrators.least_squares`.
    """

    calibrator: Calibrator = "min-max"
    percentile: float = 99.999
    averaging_constant: float = 0.01
    bins: int = 2048
    quantized_bins: int = 128

    def __post_init__(self) -> None:
        """Raises `ValueError`, in words for a person."""
        if self.calibrator not in get_args(Calibrator):
            raise ValueError(f"calibrator is {self.calibrator!r}, and there are {', '.join(get_args(Calibrator))}")
        if not (_is_number(self.percentile) and 50 < self.percentile <= 100):
            raise ValueError(f"percentile is {self.percentile!r}, and must be a number above 50 and at most 100")
        if not (_is_number(self.averaging_constant) and 0 < self.averaging_constant <= 1):
            raise ValueError(
                f"averaging-constant is {self.averaging_constant!r}, and must be a number above 0 and at most 1"
            )
        for name, count in (("bins", self.bins), ("quantized-bins", self.quantized_bins)):
            if not isinstance(count, int) or not 2 <= count <= _MOST_BINS or count % 2:
                raise ValueError(f"{name} is {count!r}, and must be an even number from 2 to {_MOST_BINS}")
        if self.bins < self.quantized_bins:
            raise ValueError(
                f"bins is {self.bins}, and must not be below quantized-bins, which is {self.quantized_bins}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def observe(
    model: Path,
    names: Iterable[str],
    feeds: Feeds,
    how: Calibration,
    *,
    symmetric: bool = False,
    whole: Collection[str] = (),
) -> dict[str, Range]:
    """Ranges by tensor name over all feeds, one query in memory at a time; a tensor that is always empty gets (0, 0).

    `feeds` is called once for each pass. `entropy` takes two: its bins end at the extremes, which only a whole pass
    knows, and where two windows diverge almost alike, the counts of one pass, spread over those bins afterwards,
    are not exact enough to choose as the exact ones do. All other calibrators take one pass. `symmetric` says whether
    the scheme has its zero point in the middle; tensors named in `whole` keep their extremes whatever the calibrator.
    Raises `NotFinite`.
    """
    watched = Watched(model, names)
    if how.calibrator == "moving-average":
        averages = watched.collect(
            feeds(), lambda name: _Extremes() if name in whole else _Average(how.averaging_constant)
        )
        return {name: seen.range for name, seen in averages.items()}
    if how.calibrator in ("percentile", "mse"):
        counted = watched.collect(feeds(), lambda name: Histogram(_BINS))
        return _ranges(counted, lambda name, seen: _clipped(seen, how, symmetric, whole=name in whole))
    extremes = {name: seen.range for name, seen in watched.collect(feeds(), lambda name: _Extremes()).items()}
    if how.calibrator == "min-max":
        return extremes
    reach = {name: max(-seen.low, seen.high) for name, seen in extremes.items()}
    counted = watched.collect(feeds(), lambda name: Histogram(how.bins, reach=reach[name]))
    return _ranges(counted, lambda name, seen: _clipped(seen, how, symmetric, whole=name in whole))


def _ranges(counted: Mapping[str, Histogram], range_of: Callable[[str, Histogram], Range]) -> dict[str, Range]:
    found = mapped(lambda name: range_of(name, counted[name]), counted)
    return dict(zip(counted, found, strict=True))


def _clipped(seen: Histogram, how: Calibration, symmetric: bool, *, whole: bool) -> Range:
    if seen.low > seen.high:
        return _NOTHING
    if whole:
        return Range(seen.low, seen.high)
    if how.calibrator == "percentile":
        return percentile(seen, how.percentile)
    if how.calibrator == "mse":
        return least_squares(seen, symmetric=symmetric)
    return entropy(seen, how.quantized_bins)


class _Extremes:
    def __init__(self) -> None:
        self.range, self._any = _NOTHING, False

    def add(self, value: np.ndarray, extremes: Range) -> None:
        low, high = (self.range.low, self.range.high) if self._any else (extremes.low, extremes.high)
        self.range, self._any = Range(min(low, extremes.low), max(high, extremes.high)), True


class _Average:
    def __init__(self, constant: float) -> None:
        self.range, self._queries, self._constant = _NOTHING, 0, constant

    def add(self, value: np.ndarray, extremes: Range) -> None:
        self._queries += 1
        share = max(self._constant, 1 / self._queries)
        low, high = self.range.low, self.range.high
        self.range = Range(low + share * (extremes.low - low), high + share * (extremes.high - high))


def joined(graph: Any, ranges: Mapping[str, Range], *, but: Container[str] = ()) -> dict[str, Range]:
    """`ranges` by tensor, with the inputs and the output of each Concat in the widest of theirs; concatenations that
    touch have one range together, and those named in `but` join nothing. `graph` is an onnx.GraphProto.

    Integers are then handed on as they are, where different scales would have every input converted, and rounded
    twice.
    """
    groups: list[set[str]] = []
    for node in graph.node:
        if node.op_type == "Concat" and node.name not in but:
            group = {name for name in (*node.input, *node.output) if name in ranges}
            touching = [other for other in groups if not group.isdisjoint(other)]
            groups = [other for other in groups if group.isdisjoint(other)] + [group.union(*touching)]
    wide = dict(ranges)
    for group in filter(None, groups):
        low, high = min(ranges[name].low for name in group), max(ranges[name].high for name in group)
        wide.update(dict.fromkeys(group, Range(low, high)))
    return wide
