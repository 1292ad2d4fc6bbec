"""Prune as far as the budget of accuracy lets: shares in rising order, each judged on samples that fitted nothing."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mlopt.assess import check_baseline
from mlopt.errors import BudgetInfeasible, Misused, SamplesInvalid, UnsupportedModel
from mlopt.intervals import allowed
from mlopt.plan import BASELINE, hopeless
from mlopt.prepare import Prepared, prepare, split_samples
from mlopt.progress import Progress
from mlopt.request import Request
from mlopt.samples.generated import GeneratedSamples
from mlopt.samples.samples import digest_samples
from mlopt.shares import Search, Trial, Way
from mlopt.step import Step
from mlopt.steps.fine_tune import EPOCHS, FineTune
from mlopt.steps.prune_channels import PruneChannels
from mlopt.units import format_percent, format_points
from mlopt.widths import followed

RECIPE: Final = "pruned"
_FEWEST: Final = 20  # samples to train on
_TIMED_FEEDS: Final = 8


@dataclass(frozen=True, slots=True)
class Pruning:
    """`chosen` of `trials`, which are in the order in which they were made. `max_drop` None: nothing was judged.
    `dropped` says of recipes that could not be made or run at a share why."""

    prepared: Prepared
    chosen: Trial
    trials: tuple[Trial, ...]
    max_drop: float | None
    dropped: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tuning:
    """Fine-tune on the samples of `where` for so many passes."""

    where: str
    epochs: int = EPOCHS


def prune_model(request: Request, progress: Progress, *, share: float | None, tuning: Tuning | None = None) -> Pruning:
    """Prune `share` of the work; without one, the largest share of `SHARES` that keeps the budget of accuracy.

    With recipes in the request every share, and the whole model, is made by each of them in its runtime, and of all
    that keep the budget the one that is measured to be fastest is chosen. Shares are tried in rising order, and the
    first that is not proven ends it, for each recipe on its own. That is a test of hypotheses in a fixed sequence:
    however many there are, a share that loses too much passes with the error rate of one test (Maurer, Hothorn and
    Lehmacher 1995). A recipe that cannot be made or run at one share ends there, and the others go on.
    Raises `BudgetInfeasible` where nothing keeps the budget, and what the recipes died of where none was made.
    """
    search = _search(request, progress, tuning)
    prepared = search.prepared
    if share is not None:
        trials = search.tried(share)
        budget = request.max_drop
    else:
        budget = _budget(prepared)
        check_baseline(prepared, progress)
        trials = tuple(itertools.chain.from_iterable(search.rising(budget)))
    if not trials:
        search.refuse()
    passed = [trial for trial in trials if budget is not None and trial.keeps(budget)]
    if not passed and share is None:
        assert budget is not None
        nearest = min(trials, key=_most_lost)
        raise BudgetInfeasible(
            _infeasible(nearest, budget),
            where=str(request.model),
            next=f"--max-drop {_rounded_up(nearest)} would be kept by that one; or give more samples, for fitting "
            "(--calibration) and for proving; or name a --share and judge for yourself",
        )
    dropped = {name: error.what for name, error in search.dropped.items()}
    if not request.recipes:
        return Pruning(prepared, (passed or trials)[-1], trials, budget, dropped)
    timed = _timed(prepared, passed or trials, progress)
    trials = tuple(timed.get(trial.name, trial) for trial in trials)
    return Pruning(prepared, max(timed.values(), key=_merit), trials, budget, dropped)


def _search(request: Request, progress: Progress, tuning: Tuning | None) -> Search:
    asked = dataclasses.replace(request, recipes=(RECIPE, *request.recipes), ship=None, image=False)
    prepared = prepare(asked, progress)
    if prepared.split is None:
        raise Misused("What a channel is worth is seen on samples, and there are none.", next="give --samples")
    for left in prepared.plan.left_out:
        if left.recipe == RECIPE:
            raise UnsupportedModel(f"The model cannot be pruned: {left.reason}.", where=str(request.model))
        raise Misused(
            f"{left.recipe} cannot follow pruning: {left.reason}.",
            where=str(request.model),
            next="mlopt recipes list shows the others",
        )
    _, pruned, *others = prepared.plan.candidates
    (step,) = pruned.steps
    assert isinstance(step, PruneChannels)
    if other := next((one for one in others if any(isinstance(s, PruneChannels) for s in one.steps)), None):
        raise Misused(f"{other.name} prunes by itself.", next="name recipes that are to follow pruning, as int8-static")
    ways = tuple(Way(one.name, one.runtime, one.steps) for one in others) or (Way(RECIPE, pruned.runtime, ()),)
    return Search(prepared, progress, followed(prepared.exported), step, _then(prepared, tuning), ways)


def _timed(prepared: Prepared, trials: Sequence[Trial], progress: Progress) -> dict[str, Trial]:
    """The trials by name, with their speed where the target is this machine. What dies when it is timed is left out."""
    from mlopt.measure.interleave import Subject, measure_together

    if not prepared.on_this_machine:
        return {trial.name: trial for trial in trials}
    method, samples = prepared.profile.method, prepared.evaluation
    with progress.phase("measure", f"{len(trials)} side by side"):
        found, died = measure_together(
            Subject(BASELINE, prepared.exported, prepared.runtimes[BASELINE]),
            [Subject(trial.name, trial.artifact, trial.runtime) for trial in trials],
            single=list(itertools.islice(samples.feeds(batch=prepared.batch(method.query_batch)), _TIMED_FEEDS)),
            offline=next(iter(samples.feeds(batch=prepared.batch(method.offline_batch)))),
            method=method,
            device=prepared.device,
        )
    timed = {
        trial.name: dataclasses.replace(trial, speedup=found[trial.name].speedup)
        for trial in trials
        if trial.name in found
    }
    if not timed:
        name, reason = next(iter(died.items()))
        raise UnsupportedModel(f"{name} cannot be run: {reason.what}", where=str(prepared.request.model))
    return timed


def _merit(trial: Trial) -> tuple[float, float]:
    """Speed, and where nothing was timed how much is gone."""
    return (trial.speedup.value if trial.speedup else 0.0, trial.gone)


def _most_lost(trial: Trial) -> float:
    assert trial.accuracy.drop is not None
    return trial.accuracy.drop.high


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


def _infeasible(trial: Trial, budget: float) -> str:
    drop = trial.accuracy.drop
    assert drop is not None
    return (
        f"No share keeps a drop of at most {format_points(budget)}: with {format_percent(trial.gone)} of the work gone"
        f"{'' if trial.recipe == RECIPE else f' by {trial.recipe}'}, which loses least, top-1 falls by "
        f"{format_points(drop.value)}, at most "
        f"{format_points(drop.high)} at 95 % confidence on {trial.accuracy.samples} samples."
    )


def _rounded_up(trial: Trial) -> str:
    assert trial.accuracy.drop is not None
    return f"{math.ceil(1000 * trial.accuracy.drop.high) / 10:g}%"
