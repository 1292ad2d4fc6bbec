"""Mixed precision: int8 wherever the budget of accuracy allows it, floating point for the nodes that it does not."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import BudgetInfeasible, UnsupportedModel
from mlopt.intervals import Allowed
from mlopt.onnx_file import first_few
from mlopt.precision.borders import borders_of
from mlopt.precision.depthwise import beside_bf16
from mlopt.precision.groups import Group, names_of
from mlopt.precision.noise import Noise, power
from mlopt.precision.search import Mix, Search
from mlopt.step import Make
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.observe_ranges import observed
from mlopt.steps.quantizer import prepared, saved, unshared
from mlopt.steps.repair_weights import wholly_mended
from mlopt.steps.repairing import Weights, but
from mlopt.steps.sensitivity import groups_to_decide
from mlopt.steps.set_precision import NARROW
from mlopt.steps.tries import Known, Tries

_LEAST: Final = 0.25  # chance: what is made for less is mostly for nothing
_SURER: Final = 0.6  # where all int8 is judged by itself
_HOPE: Final = 0.7  # of the noise that a few samples show: with less all samples would hardly be


@dataclass(frozen=True, slots=True)
class QuantizeMixed(Calibrated):
    """Quantize, but keep in floating point the fewest groups of nodes with which the answers stay inside the budget.

    `allowed` is what the answers may lose, which a plan takes from the profile's budgets and the number of evaluation
    samples. First all int8 is tried: where that likely stays inside, the bytes are those of `quantize-static` with the
    same options. With `repair`, weights and biases are then made good for the errors before them, and tried. Only where
    that is too much still, every group (`precision/groups.py`) is quantized alone and run on the first `probes` of
    `calibration`, and what has to stay is searched: at most `glances` mixes are looked at on the first `samples`, and
    the one that promises most (`Search`) on all. All of it sees calibration samples alone, so that those that judge the
    result are new to it. Raises `BudgetInfeasible` where no mix that is worth making is likely enough.

    All int8 and mixes are weighed by what they promise, however bold. As a `fallback`, where all int8 is judged by
    itself, a mix is made that is likelier than not.

    `rest` is the type in which OpenVINO is told to compute what is not int8. The search counts with what bf16 does to
    the answers; where bf16 alone would be too much, it is f32 after all.
    """

    name: ClassVar[str] = "quantize-mixed"
    version: ClassVar[int] = 18
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    allowed: Allowed = field(kw_only=True)
    glances: int = 8
    repair: bool = True
    samples: int = 16
    probes: int = 2
    rest: Literal["f32", "bf16"] = "f32"
    fallback: bool = False

    def __post_init__(self) -> None:
        """Raises `ValueError` for a value that no calibrator takes, or a type that there is not."""
        Calibrated.__post_init__(self)
        if self.rest not in ("f32", "bf16"):
            raise ValueError(f"rest is {self.rest!r}, and there are 'f32' and 'bf16'")

    def run(self, source: Artifact, into: Path) -> None:
        with unshared() as make:
            self.compose(source, into, make)

    def compose(self, source: Artifact, into: Path, make: Make) -> None:
        result = into / "model.onnx"
        with prepared(source, optimize=True) as model, tempfile.TemporaryDirectory(prefix="mlopt-mixed-") as scratch:
            groups = groups_to_decide(model.graph, self.qdq)
            if not groups:
                raise UnsupportedModel("The model has no operator with an int8 kernel.", where=str(source.main))
            ranges = observed(self, source, make)
            tries = Tries.of(self.qdq, model, ranges, self.calibration, Path(scratch) / "model.onnx", few=self.samples)
            if self.rest == "bf16":
                tries.narrow(self.allowed)
            if tries.narrowed:
                groups = beside_bf16(groups, model.graph)
            mix, weights, everything = self._searched(tries, groups, source, make)
            tries.write(mix.kept, weights, result)
            notes = [*self.qdq.notes(model.graph), *_notes(mix, weights, groups, everything, tries.evaluations)]
            if not mix.noise.within(self.allowed):
                chance = mix.noise.chance(self.allowed)
                notes.append(f"by calibration samples its chance to keep the budget was {chance:.0%}")
            if tries.narrowed and mix.kept:
                notes.append(NARROW)
        saved(result, notes=notes, properties=tries.properties)

    def _searched(
        self, tries: Tries, groups: tuple[Group, ...], source: Artifact, make: Make
    ) -> tuple[Mix, Weights, Noise]:
        """First all int8; then all of it repaired; then the fewest groups to keep of that, the rest repaired anew. With
        what all int8 brings without repair."""
        weights = Weights(tries.model, {})
        few, full = tries.glance((), weights), None
        plain = tries.noise_of(few)
        if tries.noise_of(few, scale=_HOPE).within(self.allowed) or not self.repair:
            full = tries.completed(few)
            plain = tries.noise_of(full)
            if plain.within(self.allowed):
                return Mix((), plain), weights, plain
        repaired = wholly_mended(self, source, make) if self.repair else weights
        if repaired.grids:
            answered = tries.answers((), repaired)
            if power(tries.exact, tries.few_of(answered)) < power(tries.exact, few):
                weights, full = repaired, answered
        full = full or tries.answers((), weights)
        everything, known = tries.noise_of(full), Known(tries, full)
        if everything.within(self.allowed):
            return Mix((), everything), weights, plain
        each = tuple(tries.sensitivities(groups, self.probes))
        starts = [weights, Weights(tries.model, {})] if weights.grids else [weights]
        made: dict[tuple[Group, ...], Weights] = {}

        def glance(kept: tuple[Group, ...]) -> Noise:
            looks = [known.noise_of(tries.glance(kept, but(start, tries.model, names_of(kept)))) for start in starts]
            least = min(looks, key=lambda look: look.power)
            starts[:] = [starts[looks.index(least)]]  # the first glance tells what the others begin from
            return least

        def evaluate(kept: tuple[Group, ...]) -> Noise:
            made[kept] = tries.mended(kept) if starts[0].grids else starts[0]
            return tries.noise_of(tries.answers(kept, made[kept]))

        looks = (glance, evaluate, known.changes_at)
        least, fewest = (_SURER, 1) if self.fallback else (_LEAST, 0)
        graph, qdq = tries.model.graph, self.qdq
        borders = borders_of(graph, qdq.operators, outputs=qdq.outputs, floating=set(qdq.floating(graph)))
        search = Search(
            each, self.allowed, *looks, self.glances, least=least, fewest=fewest, floor=tries.floor, borders=borders
        )
        mix = search.run(everything)
        if mix is None:
            raise self._infeasible(everything, source, tries.evaluations)
        return mix, made.get(mix.kept, weights), plain

    def _infeasible(self, nearest: Noise, source: Artifact, evaluations: float) -> BudgetInfeasible:
        """`nearest` is what all int8 brings at best."""
        would = []
        if self.allowed.drop is not None and nearest.changes and (drop := self.allowed.drop_for(nearest.changes)):
            would.append(f"--max-drop {math.ceil(1000 * drop) / 10:g}%")
        if self.allowed.agreement is not None and nearest.changes:
            agreement = self.allowed.agreement_for(nearest.changes)
            would.append(f"min-agreement = {math.floor(1000 * agreement) / 1000:g} in the profile")
        sure = nearest.sqnr - self.allowed.decibel_for(nearest.spread, nearest.seen)
        if self.allowed.sqnr is not None and sure < self.allowed.sqnr:
            would.append(f"min-sqnr = {math.floor(10 * sure) / 10:g} in the profile")
        return BudgetInfeasible(
            f"No mix of int8 and floating point is likely to keep the budget ({evaluations:g} evaluations); all int8 "
            f"gives {_seen(nearest)}.",
            where=str(source.main),
            next=f"all int8 would likely keep {' and '.join(would)}; or give more samples" if would else "",
        )


def _notes(
    mix: Mix, weights: Weights, groups: tuple[Group, ...], everything: Noise, evaluations: float
) -> Iterator[str]:
    count = f"({evaluations:g} evaluations on calibration samples, the model's own among them)"
    if weights.grids:
        repaired = f"weights and biases are repaired; without that all int8 gives {_seen(everything)}"
        yield repaired if mix.kept else f"{repaired} {count}"
    if not mix.kept:
        return
    names = [group.name for group in mix.kept]
    work = sum(group.work for group in groups)
    share = sum(group.work for group in mix.kept) / max(1, work)
    part = f"{share:.0%}" if share < 0.995 else "over 99%"
    many = f"{len(names)} of {len(groups)} groups of nodes"
    yield f"{many} stay in floating point ({part} of the work): {first_few(names)}"
    yield f"{_seen(mix.noise)}, where all int8 gives {_seen(everything)} {count}"


def _seen(noise: Noise) -> str:
    sqnr = f"SQNR {noise.sqnr:.1f} dB"
    if noise.changes is None:
        return sqnr
    lost, won = noise.changes.lost, noise.changes.won
    drop = "" if lost is None or won is None else f", {100 * (lost - won):+.2f} points of top-1"
    return f"{noise.changes.flips:.2%} of answers expected to change{drop}, {sqnr}"
