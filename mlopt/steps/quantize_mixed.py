"""Mixed precision: int8 wherever the budget of accuracy allows it, floating point for the nodes that it does not."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import BudgetInfeasible
from mlopt.intervals import Allowed, Changes
from mlopt.precision.groups import Group
from mlopt.precision.noise import Noise, answers, changes, noise
from mlopt.precision.search import Mix, Search
from mlopt.steps.measure_sensitivity import Measured
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.repairing import Weights, repaired

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class QuantizeMixed:
    """Quantize, but keep in floating point the fewest groups of nodes with which the answers stay inside the budget.

    Where that is none, the bytes are those of `quantize-static`. With `repair`, weights and biases are first made good
    for the errors before them where all int8 is too much, and what then has to stay is searched. Follows
    `measure-sensitivity`. `allowed` is what the answers may lose, which a plan takes from the profile's budgets and the
    number of evaluation samples. The search itself sees calibration samples alone, so that those that judge its result
    are new to it. At most `evaluations` mixes are tried. Raises `BudgetInfeasible` when not even one group can be
    quantized inside the budget.
    """

    name: ClassVar[str] = "quantize-mixed"
    version: ClassVar[int] = 3
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    calibration: Samples
    allowed: Allowed
    evaluations: int = 8
    repair: bool = True

    def run(self, source: Artifact, into: Path) -> None:
        measured = Measured.read(source)
        result = into / "model.onnx"
        exact = answers(source.main, self.calibration.feeds(batch=1))
        with prepared(source, optimize=False) as model, tempfile.TemporaryDirectory(prefix="mlopt-mixed-") as scratch:
            tries = _Tries(measured, model, self.calibration, exact, Path(scratch) / "model.onnx")
            plain = Weights(model, {})
            everything = tries.noise((), plain)
            if everything.within(self.allowed):
                mix, weights = Mix((), everything, 0), plain
            else:
                mix, weights = self._searched(tries, everything, source)
            tries.write(mix.kept, weights, result)
            notes = measured.qdq.notes(model.graph)
        if weights.grids:
            notes = (*notes, f"weights and biases are repaired; without that all int8 gives {_seen(everything)}")
        saved(result, notes=[*notes, *_notes(mix, measured, everything)])

    def _searched(self, tries: _Tries, everything: Noise, source: Artifact) -> tuple[Mix, Weights]:
        """First all int8, repaired; then the fewest groups to keep as they are; then fewer of them, repaired."""
        plain = Weights(tries.model, {})
        mended = everything
        if self.repair and (weights := tries.repaired(())).grids:
            mended = tries.noise((), weights)
            if mended.within(self.allowed):
                return Mix((), mended, 1), weights
        full = tries.answers((), plain)

        def changes_at(power: float) -> Changes | None:
            scale = math.sqrt(power / everything.power) if everything.power else 0.0
            return changes(tries.exact[0], full[0], self.calibration.labels, scale=scale)

        search = Search(
            tries.measured.groups, self.allowed, lambda kept: tries.noise(kept, plain), changes_at, self.evaluations
        )
        mix = search.run(everything)
        if mended is not everything and (kept := search.fewer(mix, mended)) is not None:
            weights = tries.repaired(kept)
            seen = tries.noise(kept, weights)
            if seen.within(self.allowed):
                return Mix(kept, seen, (mix.evaluations if mix else self.evaluations) + 2), weights
        if mix is None:
            raise self._infeasible(min(everything, mended, key=lambda one: one.power), source)
        return mix, plain

    def _infeasible(self, nearest: Noise, source: Artifact) -> BudgetInfeasible:
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
            f"No mix of int8 and floating point is likely to keep the budget; all int8 gives {_seen(nearest)}.",
            where=str(source.main),
            next=f"all int8 would likely keep {' and '.join(would)}; or give more samples" if would else "",
        )


@dataclass(frozen=True, slots=True)
class _Tries:
    """Mixes of one model, written to `trial` and run on `calibration`; `exact` is what the model itself answers."""

    measured: Measured
    model: Any
    calibration: Samples
    exact: list[Any]
    trial: Path

    def write(self, kept: tuple[Group, ...], weights: Weights, path: Path) -> None:
        self.measured.qdq.write(weights.model, self.measured.ranges, path, keep=_names(kept), grids=weights.grids)

    def answers(self, kept: tuple[Group, ...], weights: Weights) -> list[Any]:
        self.write(kept, weights, self.trial)
        return answers(self.trial, self.calibration.feeds(batch=1))

    def noise(self, kept: tuple[Group, ...], weights: Weights) -> Noise:
        return noise(self.exact, self.answers(kept, weights), self.calibration.labels)

    def repaired(self, kept: tuple[Group, ...]) -> Weights:
        return repaired(self.measured.qdq, self.model, self.measured.ranges, self.calibration, keep=_names(kept))


def _names(kept: tuple[Group, ...]) -> list[str]:
    return [name for group in kept for name in group.nodes]


def _notes(mix: Mix, measured: Measured, everything: Noise) -> Iterator[str]:
    if not mix.kept:
        return
    names = [group.name for group in mix.kept]
    shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    work = sum(one.group.work for one in measured.groups)
    share = sum(group.work for group in mix.kept) / max(1, work)
    part = f"{share:.0%}" if share < 0.995 else "over 99%"
    yield f"{len(names)} of {len(measured.groups)} groups of nodes stay in floating point ({part} of the work): {shown}"
    tries = mix.evaluations + 1
    yield f"{_seen(mix.noise)}, where all int8 gives {_seen(everything)} ({tries} evaluations on calibration samples)"


def _seen(noise: Noise) -> str:
    sqnr = f"SQNR {noise.sqnr:.1f} dB"
    if noise.changes is None:
        return sqnr
    lost, won = noise.changes.lost, noise.changes.won
    drop = "" if lost is None or won is None else f", {100 * (lost - won):+.2f} points of top-1"
    return f"{noise.changes.flips:.2%} of answers expected to change{drop}, {sqnr}"
