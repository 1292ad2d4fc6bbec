"""Mixes of int8 and floating point tried on calibration samples: what they answer, and how many runs that took."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt.intervals import Allowed, Changes
from mlopt.precision.activations import unweighted
from mlopt.precision.bf16 import rounded
from mlopt.precision.expected import Exact
from mlopt.precision.groups import Group, names_of
from mlopt.precision.noise import Noise, answers, power, spread
from mlopt.precision.order import Sensitivity
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq
from mlopt.steps.repairing import Weights, mended
from mlopt.steps.sensitivity import sensitivities

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.samples import Samples

    Answers = list[np.ndarray]


@dataclass(slots=True)
class Tries:
    """Mixes of one model, written to `trial` and run on `calibration`; `exact` is what the model itself answers. A
    glance takes the first `few` samples. `asked` counts the samples that were run, the model's own runs among them."""

    qdq: Qdq
    model: Any
    ranges: Mapping[str, Range]
    calibration: Samples
    exact: Answers
    scores: Exact | None  # None: it is no classifier
    trial: Path
    few: int
    asked: int
    narrowed: bool = False
    floor: float = 0.0  # noise power with nothing in int8

    @classmethod
    def of(
        cls, qdq: Qdq, model: Any, ranges: Mapping[str, Range], calibration: Samples, trial: Path, *, few: int
    ) -> Tries:
        import onnx

        onnx.save(model, str(trial))
        exact = answers(trial, calibration.feeds(batch=1))
        scores, count = Exact.of(exact[0], calibration.labels), len(calibration)
        return cls(qdq, model, ranges, calibration, exact, scores, trial, min(few, count), count)

    @property
    def evaluations(self) -> float:
        """How many passes over all of `calibration` that was, to a tenth, rounded up."""
        return math.ceil(10 * self.asked / len(self.calibration)) / 10

    @property
    def properties(self) -> dict[str, str]:
        """What the file says to who runs it."""
        from mlopt.serve.openvino import APART, PRECISION

        if not self.narrowed:
            return {}
        # Fused, what is added to integers costs up to 1.5 dB there; transformers are 2 to 7 % slower without.
        attends = unweighted(self.model.graph)
        return {PRECISION: "bf16"} if attends else {PRECISION: "bf16", APART: "bf16 beside int8"}

    def narrow(self, allowed: Allowed) -> None:
        """From now on what is not int8 computes in bfloat16, if that alone stays inside what is allowed."""
        import onnx

        onnx.save(rounded(self.model), str(self.trial))
        alone = self.noise_of(self._run(0, None))
        if alone.within(allowed):
            self.narrowed, self.floor = True, alone.power

    def write(self, kept: tuple[Group, ...], weights: Weights, path: Path) -> None:
        self.qdq.write(weights.model, self.ranges, path, keep=names_of(kept), grids=weights.grids)

    def answers(self, kept: tuple[Group, ...], weights: Weights) -> Answers:
        """To all samples."""
        self._write_trial(kept, weights)
        return self._run(0, None)

    def glance(self, kept: tuple[Group, ...], weights: Weights) -> Answers:
        """To the first few samples."""
        self._write_trial(kept, weights)
        return self._run(0, self.few)

    def completed(self, few: Answers) -> Answers:
        """What was glanced at last, on all samples."""
        import numpy as np

        if self.few == len(self.calibration):
            return few
        return [np.concatenate(pair) for pair in zip(few, self._run(self.few, None), strict=True)]

    def few_of(self, answered: Answers) -> Answers:
        """As many of the answers as a glance has."""
        return [output[: self.few * len(output) // len(self.calibration)] for output in answered]

    def noise_of(self, answered: Answers, *, scale: float = 1.0) -> Noise:
        """Were it `scale` times as large."""
        seen = self.scores.changes(answered[0], scale=scale) if self.scores else None
        loudest = [spread(*pair) for pair in zip(self.exact, answered, strict=True)]
        return Noise(scale**2 * power(self.exact, answered), seen, max(loudest), len(answered[0]))

    def mended(self, kept: tuple[Group, ...]) -> Weights:
        return mended(self.qdq, self.model, self.ranges, self.calibration, keep=names_of(kept))

    def sensitivities(self, groups: tuple[Group, ...], samples: int) -> Iterator[Sensitivity]:
        """On the first so many samples."""
        feeds = list(itertools.islice(self.calibration.feeds(batch=1), samples))
        self.asked += len(groups) * len(feeds)
        return sensitivities(self.qdq, self.model, self.ranges, groups, self.exact, feeds, self.trial)

    def _write_trial(self, kept: tuple[Group, ...], weights: Weights) -> None:
        import onnx

        self.write(kept, weights, self.trial)
        if self.narrowed:
            onnx.save(rounded(onnx.load(str(self.trial))), str(self.trial))

    def _run(self, start: int, stop: int | None) -> Answers:
        self.asked += (len(self.calibration) if stop is None else stop) - start
        return answers(self.trial, itertools.islice(self.calibration.feeds(batch=1), start, stop))


@dataclass(slots=True)
class Known:
    """What a glance at a mix says of it, once one of them, all int8, is `known` on all samples."""

    tries: Tries
    known: Answers
    _power: float = field(init=False)
    _more: float = field(init=False)  # noise on all samples beside that on the first few

    def __post_init__(self) -> None:
        self._power = power(self.tries.exact, self.known)
        few = power(self.tries.exact, self.tries.few_of(self.known))
        self._more = self._power / few if 0 < few < math.inf else 1.0

    def noise_of(self, few: Answers) -> Noise:
        """On all samples, by what was answered to a few."""
        return self.tries.noise_of(few, scale=math.sqrt(self._more))

    def changes_at(self, at: float) -> Changes | None:
        """With noise like the known one's, but of that power."""
        scale = math.sqrt(at / self._power) if self._power else 0.0
        return self.tries.scores.changes(self.known[0], scale=scale) if self.tries.scores else None
