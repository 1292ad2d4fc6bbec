"""Mixed precision: int8 wherever the budget of accuracy allows it, floating point for the nodes that it does not."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import BudgetInfeasible, UnsupportedModel
from mlopt.intervals import Allowed, Changes
from mlopt.precision.bf16 import rounded
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise, answers, changes, noise
from mlopt.precision.search import Mix, Search, Sensitivity
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.repairing import Weights, mended
from mlopt.steps.sensitivity import groups_to_decide, sensitivities
from mlopt.steps.set_precision import NARROW

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.samples import Samples

_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class QuantizeMixed(Calibrated):
    """Quantize, but keep in floating point the fewest groups of nodes with which the answers stay inside the budget.

    `allowed` is what the answers may lose, which a plan takes from the profile's budgets and the number of evaluation
    samples. First all int8 is tried: where that stays inside, the bytes are those of `quantize-static` with the same
    options. With `repair`, weights and biases are then made good for the errors before them, and tried. Only where that
    is too much still, every group (`precision/groups.py`) is quantized alone and run on the first `samples` of
    `calibration`, and what has to stay is searched: at most `evaluations` mixes are tried. All of it sees calibration
    samples alone, so that those that judge the result are new to it. Raises `BudgetInfeasible` when not even one group
    can be quantized inside the budget.

    `rest` is the type in which OpenVINO is told to compute what is not int8. The search counts with what bf16 does to
    the answers; where bf16 alone would be too much, it is f32 after all.
    """

    name: ClassVar[str] = "quantize-mixed"
    version: ClassVar[int] = 10
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    allowed: Allowed = field(kw_only=True)
    evaluations: int = 8
    repair: bool = True
    samples: int = 16
    rest: Literal["f32", "bf16"] = "f32"

    def __post_init__(self) -> None:
        """Raises `ValueError` for a value that no calibrator takes, or a type that there is not."""
        Calibrated.__post_init__(self)
        if self.rest not in ("f32", "bf16"):
            raise ValueError(f"rest is {self.rest!r}, and there are 'f32' and 'bf16'")

    def run(self, source: Artifact, into: Path) -> None:
        result = into / "model.onnx"
        with prepared(source, optimize=True) as model, tempfile.TemporaryDirectory(prefix="mlopt-mixed-") as scratch:
            groups = groups_to_decide(model.graph, self.qdq)
            if not groups:
                raise UnsupportedModel("The model has no operator with an int8 kernel.", where=str(source.main))
            ranges = self.qdq.observe(model, self.calibration, into, self.how)
            tries = _Tries.of(self.qdq, model, ranges, self.calibration, Path(scratch) / "model.onnx")
            if self.rest == "bf16":
                tries.narrow(self.allowed)
            plain = Weights(model, {})
            full = tries.answers((), plain)
            everything = tries.noise_of(full)
            if everything.within(self.allowed):
                mix, weights = Mix((), everything, 0), plain
            else:
                mix, weights = self._searched(tries, groups, full, source)
            tries.write(mix.kept, weights, result)
            notes = [*self.qdq.notes(model.graph), *_notes(mix, weights, groups, everything, tries.evaluations)]
            if tries.narrowed and mix.kept:
                notes.append(NARROW)
        saved(result, notes=notes, properties=tries.properties)

    def _searched(
        self, tries: _Tries, groups: tuple[Group, ...], full: list[np.ndarray], source: Artifact
    ) -> tuple[Mix, Weights]:
        """First all int8, repaired; then the fewest groups to keep as they are; then fewer of them, repaired. `full`
        is what all int8 answers."""
        plain, everything = Weights(tries.model, {}), tries.noise_of(full)
        repaired = everything
        if self.repair and (weights := tries.mended(())).grids:
            repaired = min(everything, tries.noise((), weights), key=lambda one: one.power)
            if repaired.within(self.allowed):
                return Mix((), repaired, tries.evaluations), weights

        def changes_at(power: float) -> Changes | None:
            scale = math.sqrt(power / everything.power) if everything.power else 0.0
            return changes(tries.exact[0], full[0], self.calibration.labels, scale=scale)

        each = tuple(tries.sensitivities(groups, self.samples))
        search = Search(each, self.allowed, lambda kept: tries.noise(kept, plain), changes_at, self.evaluations)
        mix = search.run(everything)
        if repaired is not everything and (kept := search.fewer(mix, repaired)) is not None:
            weights = tries.mended(kept)
            seen = tries.noise(kept, weights)
            if seen.within(self.allowed):
                return Mix(kept, seen, tries.evaluations), weights
        if mix is None:
            raise self._infeasible(repaired, source, tries.evaluations)
        return mix, plain

    def _infeasible(self, nearest: Noise, source: Artifact, evaluations: int) -> BudgetInfeasible:
        """`nearest` is what all int8 brings at best."""
        would = []
        if self.allowed.drop is not None and nearest.changes and (drop := self.allowed.drop_for(nearest.changes)):
            would.append(f"--max-drop {math.ceil(1000 * drop) / 10:g}%")
        if self.allowed.agreement is not None and nearest.changes:
            agreement = self.allowed.agreement_for(nearest.changes)
            would.append(f"min-agreement = {math.floor(1000 * agreement) / 1000:g} in the profile")
        if self.allowed.sqnr is not None and nearest.sqnr < self.allowed.sqnr:
            would.append(f"min-sqnr = {math.floor(10 * nearest.sqnr) / 10:g} in the profile")
        return BudgetInfeasible(
            f"No mix of int8 and floating point is likely to keep the budget ({evaluations} evaluations); all int8 "
            f"gives {_seen(nearest)}.",
            where=str(source.main),
            next=f"all int8 would likely keep {' and '.join(would)}; or give more samples" if would else "",
        )


@dataclass(slots=True)
class _Tries:
    """Mixes of one model, written to `trial` and run on `calibration`; `exact` is what the model itself answers.
    `evaluations` counts the passes over all of `calibration`, the model's own among them, and those over a few samples
    by their share."""

    qdq: Qdq
    model: Any
    ranges: Mapping[str, Range]
    calibration: Samples
    exact: list[np.ndarray]
    trial: Path
    evaluations: int = 1
    narrowed: bool = False

    @classmethod
    def of(cls, qdq: Qdq, model: Any, ranges: Mapping[str, Range], calibration: Samples, trial: Path) -> _Tries:
        import onnx

        onnx.save(model, str(trial))
        return cls(qdq, model, ranges, calibration, answers(trial, calibration.feeds(batch=1)), trial)

    def write(self, kept: tuple[Group, ...], weights: Weights, path: Path) -> None:
        self.qdq.write(weights.model, self.ranges, path, keep=_names(kept), grids=weights.grids)

    def narrow(self, allowed: Allowed) -> None:
        """From now on what is not int8 computes in bfloat16, if that alone stays inside what is allowed."""
        import onnx

        onnx.save(rounded(self.model), str(self.trial))
        self.evaluations += 1
        self.narrowed = self.noise_of(answers(self.trial, self.calibration.feeds(batch=1))).within(allowed)

    @property
    def properties(self) -> dict[str, str]:
        """What the file says to who runs it."""
        from mlopt.serve.openvino import PRECISION

        return {PRECISION: "bf16"} if self.narrowed else {}

    def answers(self, kept: tuple[Group, ...], weights: Weights) -> list[np.ndarray]:
        import onnx

        self.write(kept, weights, self.trial)
        if self.narrowed:
            onnx.save(rounded(onnx.load(str(self.trial))), str(self.trial))
        self.evaluations += 1
        return answers(self.trial, self.calibration.feeds(batch=1))

    def noise(self, kept: tuple[Group, ...], weights: Weights) -> Noise:
        return self.noise_of(self.answers(kept, weights))

    def noise_of(self, answered: list[np.ndarray]) -> Noise:
        return noise(self.exact, answered, self.calibration.labels)

    def mended(self, kept: tuple[Group, ...]) -> Weights:
        return mended(self.qdq, self.model, self.ranges, self.calibration, keep=_names(kept))

    def sensitivities(self, groups: tuple[Group, ...], samples: int) -> Iterator[Sensitivity]:
        """On the first few samples."""
        feeds = list(itertools.islice(self.calibration.feeds(batch=1), samples))
        self.evaluations += math.ceil(len(groups) * len(feeds) / len(self.calibration))
        return sensitivities(self.qdq, self.model, self.ranges, groups, self.exact, feeds, self.trial)


def _names(kept: tuple[Group, ...]) -> list[str]:
    return [name for group in kept for name in group.nodes]


def _notes(mix: Mix, weights: Weights, groups: tuple[Group, ...], everything: Noise, evaluations: int) -> Iterator[str]:
    count = f"({evaluations} evaluations on calibration samples, the model's own among them)"
    if weights.grids:
        repaired = f"weights and biases are repaired; without that all int8 gives {_seen(everything)}"
        yield repaired if mix.kept else f"{repaired} {count}"
    if not mix.kept:
        return
    names = [group.name for group in mix.kept]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    work = sum(group.work for group in groups)
    share = sum(group.work for group in mix.kept) / max(1, work)
    part = f"{share:.0%}" if share < 0.995 else "over 99%"
    yield f"{len(names)} of {len(groups)} groups of nodes stay in floating point ({part} of the work): {shown}"
    yield f"{_seen(mix.noise)}, where all int8 gives {_seen(everything)} {count}"


def _seen(noise: Noise) -> str:
    sqnr = f"SQNR {noise.sqnr:.1f} dB"
    if noise.changes is None:
        return sqnr
    lost, won = noise.changes.lost, noise.changes.won
    drop = "" if lost is None or won is None else f", {100 * (lost - won):+.2f} points of top-1"
    return f"{noise.changes.flips:.2%} of answers expected to change{drop}, {sqnr}"
