"""Prune as far as the budget of accuracy lets: shares in rising order, each judged on samples that fitted nothing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mlopt.artifact import Artifact
from mlopt.assess import check_baseline, compared
from mlopt.errors import BudgetInfeasible, Misused, SamplesInvalid, UnsupportedModel
from mlopt.intervals import allowed
from mlopt.measurement import Accuracy
from mlopt.plan import hopeless
from mlopt.prepare import Prepared, prepare, split_samples
from mlopt.progress import Progress
from mlopt.request import Request
from mlopt.samples.generated import GeneratedSamples
from mlopt.samples.samples import digest_samples
from mlopt.step import Step
from mlopt.steps.fine_tune import EPOCHS, FineTune
from mlopt.steps.prune_channels import PruneChannels
from mlopt.steps.quantizer import prepared as prepared_graph
from mlopt.units import format_percent, format_points

if TYPE_CHECKING:
    from mlopt.prune.channels import Channels

RECIPE: Final = "pruned"
_FEWEST: Final = 20  # samples to train on
SHARES: Final = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True, slots=True)
class Layer:
    """A product with weights: how many channels it makes, and why none of them could go, if none could."""

    name: str
    before: int
    after: int
    stays: str


@dataclass(frozen=True, slots=True)
class Size:
    """Multiply-accumulates per sample, and weights."""

    work: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of pruning a share."""

    share: float
    artifact: Artifact
    accuracy: Accuracy
    before: Size
    after: Size
    layers: tuple[Layer, ...]

    @property
    def gone(self) -> float:
        """Of the multiply-accumulates; at least `share`, because widths are multiples."""
        return 1 - self.after.work / self.before.work

    def keeps(self, max_drop: float) -> bool:
        """Whether the drop is proven to be inside the budget."""
        return self.accuracy.drop is not None and self.accuracy.drop.high <= max_drop


@dataclass(frozen=True, slots=True)
class Pruning:
    """`chosen` of `trials`, which are in the order in which they were made. `max_drop` None: nothing was judged."""

    prepared: Prepared
    chosen: Trial
    trials: tuple[Trial, ...]
    max_drop: float | None


@dataclass(frozen=True, slots=True)
class Tuning:
    """Fine-tune on the samples of `where` for so many passes."""

    where: str
    epochs: int = EPOCHS


def prune_model(request: Request, progress: Progress, *, share: float | None, tuning: Tuning | None = None) -> Pruning:
    """Prune `share` of the work; without one, the largest share of `SHARES` that keeps the budget of accuracy.

    Shares are tried in rising order and the first that is not proven ends it. That is a test of hypotheses in a fixed
    sequence: however many there are, a share that loses too much passes with the error rate of one test (Maurer,
    Hothorn and Lehmacher 1995). Raises `BudgetInfeasible` where not even the smallest share keeps the budget.
    """
    prepared = prepare(dataclasses.replace(request, recipes=(RECIPE,), ship=None, image=False), progress)
    step, whole = _step(prepared), _followed(prepared.exported)
    then = _then(prepared, tuning)
    if share is not None:
        trial = _trial(prepared, whole, dataclasses.replace(step, share=share), then, progress)
        return Pruning(prepared, trial, (trial,), request.max_drop)
    budget = _budget(prepared)
    check_baseline(prepared, progress)
    trials: list[Trial] = []
    for trial in _rising(prepared, whole, step, then, progress):
        trials.append(trial)
        if not trial.keeps(budget):
            break
    passed = [trial for trial in trials if trial.keeps(budget)]
    if not passed:
        raise BudgetInfeasible(
            _infeasible(trials[0], budget),
            where=str(request.model),
            next=f"--max-drop {_rounded_up(trials[0])} would be kept by that one; or give more samples, for fitting "
            "(--calibration) and for proving; or name a --share and judge for yourself",
        )
    return Pruning(prepared, passed[-1], tuple(trials), budget)


def _step(prepared: Prepared) -> PruneChannels:
    if prepared.split is None:
        raise Misused("What a channel is worth is seen on samples, and there are none.", next="give --samples")
    if prepared.plan.left_out:
        raise UnsupportedModel(
            f"The model cannot be pruned: {prepared.plan.left_out[0].reason}.", where=str(prepared.request.model)
        )
    (step,) = prepared.plan.candidates[1].steps
    assert isinstance(step, PruneChannels)
    return step


def _then(prepared: Prepared, tuning: Tuning | None) -> tuple[Step, ...]:
    """Fine-tuning on everything that is there but what judges it."""
    if tuning is None:
        return ()
    asked = dataclasses.replace(prepared.request, samples=tuning.where, calibration=None)
    split = split_samples(asked, prepared.project, prepared.signature)
    assert split
    assert not isinstance(prepared.evaluation, GeneratedSamples)
    judges = {prepared.evaluation.source.content(index) for index in prepared.evaluation.indices}
    every = sorted((*split.calibration.indices, *split.evaluation.indices))
    indices = tuple(index for index in every if split.source.content(index) not in judges)
    if len(indices) < _FEWEST:
        raise SamplesInvalid(
            f"Only {len(indices)} of {len(every)} samples to train on are not among those that judge.",
            where=split.source.where,
            next="give --finetune samples that --samples does not hold",
        )
    digest = digest_samples(split.source, indices, split.calibration.constants)
    training = dataclasses.replace(split.calibration, indices=indices, digest=digest)
    return (FineTune(training, prepared.exported, epochs=tuning.epochs),)


def _budget(prepared: Prepared) -> float:
    """What may be lost. Raises where that cannot be judged, or proven for any model."""
    budgets, evaluation = prepared.profile.budgets, prepared.evaluation
    where = prepared.split.source.where if prepared.split else ""
    if budgets.max_drop is None or evaluation.labels is None:
        raise SamplesInvalid(
            "How much may be pruned is judged by the drop of top-1, and the samples have no labels."
            if budgets.max_drop is not None
            else f"Profile {prepared.profile.name} has no budget for the drop of top-1.",
            where=where,
            next="give samples with labels and --max-drop, or name a --share to prune",
        )
    if reason := hopeless(allowed(budgets, len(evaluation), labelled=True)):
        raise BudgetInfeasible(
            f"{reason}.",
            where=where,
            next="give more samples, or allow more with --max-drop",
        )
    return budgets.max_drop


def _rising(
    prepared: Prepared, whole: Channels, step: PruneChannels, then: tuple[Step, ...], progress: Progress
) -> Iterator[Trial]:
    """Trials that each prune more than the last one, until the model has no more to give."""
    gone = 0.0
    for share in SHARES:
        if share <= gone:
            continue  # the last one went as far, because widths are multiples
        try:
            trial = _trial(prepared, whole, dataclasses.replace(step, share=share), then, progress)
        except UnsupportedModel:
            if not gone:
                raise
            return
        gone = trial.gone
        yield trial


def _trial(
    prepared: Prepared, whole: Channels, step: PruneChannels, then: tuple[Step, ...], progress: Progress
) -> Trial:
    progress.about = f"{step.share:.0%}"
    artifact = prepared.exported
    for one in (step, *then):
        artifact = prepared.store.run(one, artifact)
    accuracy = compared(prepared, artifact)
    progress.about = ""
    narrow = _followed(artifact)
    return Trial(step.share, artifact, accuracy, _size(whole), _size(narrow), tuple(_layers(whole, narrow)))


def _size(channels: Channels) -> Size:
    from mlopt.prune.cells import products_of

    parameters = sum(math.prod(tensor.dims) for tensor in channels.constants.values() if tensor.data_type == 1)
    return Size(sum(product.work(()) for product in products_of(channels)), parameters)


def _layers(whole: Channels, narrow: Channels) -> Iterator[Layer]:
    from mlopt.prune.cells import stopped

    before, stays = _widths(whole), stopped(whole)
    for name, width in _widths(narrow).items():
        if name in before:
            yield Layer(name, before[name], width, stays.get(name, ""))


def _widths(channels: Channels) -> Mapping[str, int]:
    """Channels that each product makes, by the node's name."""
    found = {}
    for node in channels.graph.node:
        shape = channels.shapes.get(node.output[0]) if node.op_type in ("Conv", "Gemm", "MatMul") else None
        width = shape[1 if node.op_type == "Conv" else -1] if shape else None
        if width is not None:
            found[node.name] = width
    return found


def _followed(model: Artifact) -> Channels:
    """As the step sees it, batch normalisation folded."""
    from mlopt.prune.channels import follow

    with prepared_graph(model, optimize=True) as graph:
        return follow(graph)


def _infeasible(trial: Trial, budget: float) -> str:
    drop = trial.accuracy.drop
    assert drop is not None
    return (
        f"No share keeps a drop of at most {format_points(budget)}: with {format_percent(trial.gone)} of the work "
        f"gone, the least that was tried, top-1 falls by {format_points(drop.value)}, at most "
        f"{format_points(drop.high)} at 95 % confidence on {trial.accuracy.samples} samples."
    )


def _rounded_up(trial: Trial) -> str:
    assert trial.accuracy.drop is not None
    return f"{math.ceil(1000 * trial.accuracy.drop.high) / 10:g}%"
