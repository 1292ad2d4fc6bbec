"""Every candidate's numbers: answers against the baseline's, clocks side by side, verdicts against the budgets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlopt.artifact import ONNX, Artifact
from mlopt.check.accuracy import compare, of_itself
from mlopt.check.labels import check_labels
from mlopt.choose import Judged, judge
from mlopt.errors import ImageFailed, UnsupportedModel, WorkerFailed
from mlopt.intervals import FEWEST
from mlopt.measure.alone import Given, started_again
from mlopt.measure.interleave import Enough, Subject, measure_together
from mlopt.measurement import Accuracy, BudgetVerdict, Measurement
from mlopt.onnx_file import work_of
from mlopt.packing import image_size
from mlopt.plan import BASELINE
from mlopt.progress import Progress
from mlopt.rounding import changes_by_noise
from mlopt.steps.evaluate import Evaluate

if TYPE_CHECKING:
    from mlopt.prepare import Prepared
    from mlopt.profile import Budgets

_TIMED_FEEDS = 8
_RIVALS = Enough(0.01)  # nobody would choose by less
_ALONE = Enough(0.025)  # where one candidate is the faster or is not
_REFUSED = Enough(0.05, visit=0.1)  # where none may ship: what a looser budget would win


def assess(
    prepared: Prepared,
    artifacts: Mapping[str, Artifact],
    failures: dict[str, str],
    progress: Progress,
    *,
    upon: Sequence[Judged] = (),
) -> tuple[Judged, ...]:
    """One `Judged` per artifact, the baseline first; `upon` are judged already and stay as they are. One that its
    runtime refuses moves to `failures`."""
    known = {one.name for one in upon}
    artifacts = {name: artifacts[name] for name in artifacts if name not in known | failures.keys()}
    accuracies = _accuracies(prepared, artifacts, failures, progress)
    rounds = {
        one.name: changes_by_noise(one.precision, (step.name for step in one.steps)) for one in prepared.plan.candidates
    }
    budgets = prepared.profile.budgets

    def verdicts(name: str, measurement: Measurement | None, image: int | None = None) -> tuple[BudgetVerdict, ...]:
        return judge(
            budgets,
            file_size=artifacts[name].bytes,
            accuracy=accuracies[name],
            measurement=measurement,
            image_size=image,
            rounds=rounds[name],
        )

    measured: dict[str, Measurement] = {}
    if prepared.on_this_machine:
        candidates = [name for name in accuracies if name != BASELINE]
        ship = prepared.request.ship
        refused = [name != ship and any(one.outcome == "missed" for one in verdicts(name, None)) for name in candidates]
        with progress.phase("measure", f"{len(accuracies)} side by side"):
            timed = {name: artifacts[name] for name in accuracies}
            measured, died = _measure(prepared, timed, well_enough(budgets, refused))
        failures.update({name: error.what for name, error in died.items()})
    alive = {name: accuracy for name, accuracy in accuracies.items() if name not in failures}
    images = _image_sizes(prepared, {name: artifacts[name] for name in alive}, progress)
    baseline, *others = (
        Judged(
            name=name,
            file_size=artifacts[name].bytes,
            accuracy=accuracy,
            measurement=measured.get(name),
            verdicts=verdicts(name, measured.get(name), images.get(name)),
            work=_work(prepared, name, artifacts[name]),
        )
        for name, accuracy in alive.items()
    )
    return (baseline, *upon, *others)


def confirmed(prepared: Prepared, artifacts: Mapping[str, Artifact], one: Judged, progress: Progress) -> Judged:
    """With load time and memory of as many fresh processes as a bound takes, and judged anew on them; itself where no
    budget is on them, or it was measured in as many already. Raises `WorkerFailed`."""
    budgets, taken = prepared.profile.budgets, one.measurement
    if taken is None or not budgets.of_starts or taken.starts.processes >= FEWEST:
        return one
    single, offline = _feeds(prepared)
    given = Given(single, offline, prepared.profile.method)
    subject = Subject(one.name, artifacts[one.name], prepared.runtimes[one.name])
    with progress.phase("start", f"{one.name} in {FEWEST} processes"):
        found = started_again(taken, subject, given)
    bounded = {
        verdict.budget: verdict
        for verdict in judge(budgets, file_size=one.file_size, accuracy=one.accuracy, measurement=found)
        if verdict.budget in ("load-time", "peak-memory")
    }
    verdicts = tuple(bounded.get(verdict.budget, verdict) for verdict in one.verdicts)
    return dataclasses.replace(one, measurement=found, verdicts=verdicts)


def _work(prepared: Prepared, name: str, artifact: Artifact) -> str:
    return f"{prepared.runtimes[name]} {work_of(artifact.main)}" if artifact.format == ONNX else ""


def check_baseline(prepared: Prepared, progress: Progress) -> None:
    """Raise `LabelsMismatch` before anything is built when labels and the baseline's answers are strangers."""
    labels = prepared.evaluation.labels
    if labels is None or prepared.split is None:
        return
    progress.about = BASELINE
    outcomes = _evaluated(prepared, BASELINE, prepared.exported)
    progress.about = ""
    offset = prepared.project.samples.label_offset
    check_labels(outcomes, labels, offset=offset, where=prepared.split.source.where)


def compared(prepared: Prepared, artifact: Artifact, candidate: str = BASELINE) -> Accuracy:
    """How one more model answers against the baseline, in the runtime of this candidate."""
    baseline = _evaluated(prepared, BASELINE, prepared.exported)
    return _compared(prepared, baseline, _evaluated(prepared, candidate, artifact))


def _evaluated(prepared: Prepared, name: str, artifact: Artifact) -> Artifact:
    method = prepared.profile.method
    step = Evaluate(
        samples=prepared.evaluation,
        runtime=prepared.runtimes[name],
        device=prepared.device,
        threads=prepared.machine.cores,
        batch=prepared.batch(method.query_batch),
    )
    return prepared.store.run(step, artifact)


def _accuracies(
    prepared: Prepared, artifacts: Mapping[str, Artifact], failures: dict[str, str], progress: Progress
) -> dict[str, Accuracy]:
    """Against the baseline, sample by sample. The integer kernels that ran are this machine's: where the
    target is another, that is what the grade says."""
    outcomes: dict[str, Artifact] = {}
    for name, artifact in artifacts.items():
        progress.about = name
        try:
            outcomes[name] = _evaluated(prepared, name, artifact)
        except (UnsupportedModel, WorkerFailed) as error:
            if name == BASELINE:
                raise
            failures[name] = error.what
    progress.about = ""
    found = {name: _compared(prepared, outcomes[BASELINE], outcome) for name, outcome in outcomes.items()}
    return {**found, BASELINE: of_itself(found[BASELINE])}


def _compared(prepared: Prepared, baseline: Artifact, outcome: Artifact) -> Accuracy:
    return compare(
        baseline,
        outcome,
        labels=prepared.evaluation.labels,
        generated=prepared.split is None,
        device=prepared.device,
        grade="measured" if prepared.on_this_machine else "estimated",
    )


def _image_sizes(prepared: Prepared, artifacts: Mapping[str, Artifact], progress: Progress) -> dict[str, int]:
    """Of every candidate's image, before one is chosen, where there is a budget for it and an image is asked for.

    Empty when no image can be made here: then what ships has none either, and the report says why.
    """
    if prepared.profile.budgets.image_size is None or not prepared.request.image:
        return {}
    try:
        with progress.phase("image sizes", f"{len(artifacts)} candidates"):
            return {name: image_size(prepared, name, artifact) for name, artifact in artifacts.items()}
    except ImageFailed:
        return {}


def well_enough(budgets: Budgets, refused: Sequence[bool]) -> Enough | None:
    """How well speed-ups have to be known of candidates that may ship or are `refused` whatever their speed. None where
    a budget takes all the queries that there are."""
    if budgets.latency_p90 is not None or budgets.latency_p99 is not None:
        return None
    if refused and all(refused) and budgets.latency_p50 is None and budgets.throughput is None:
        return _REFUSED
    return _RIVALS if len(refused) > 1 else _ALONE


def _measure(
    prepared: Prepared, artifacts: Mapping[str, Artifact], enough: Enough | None
) -> tuple[dict[str, Measurement], dict[str, WorkerFailed]]:
    method = prepared.profile.method
    single, offline = _feeds(prepared)
    subjects = {name: Subject(name, artifact, prepared.runtimes[name]) for name, artifact in artifacts.items()}
    return measure_together(
        subjects.pop(BASELINE),
        list(subjects.values()),
        single=single,
        offline=offline,
        method=method,
        device=prepared.device,
        enough=enough,
    )


def _feeds(prepared: Prepared) -> tuple[list[dict[str, Any]], Mapping[str, Any]]:
    """Queries of the scenario, and one offline batch."""
    method, samples = prepared.profile.method, prepared.evaluation
    single = itertools.islice(samples.feeds(batch=prepared.batch(method.query_batch)), _TIMED_FEEDS)
    return list(single), next(iter(samples.feeds(batch=prepared.batch(method.offline_batch))))
