"""Every candidate's numbers: answers against the baseline's, clocks side by side, verdicts against the budgets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlopt.artifact import Artifact
from mlopt.check.accuracy import compare
from mlopt.check.labels import check_labels
from mlopt.choose import Judged, judge
from mlopt.errors import UnsupportedModel, WorkerFailed
from mlopt.measure.interleave import Subject, measure_together
from mlopt.measurement import Accuracy, Interval, Measurement
from mlopt.plan import BASELINE
from mlopt.progress import Progress
from mlopt.steps.evaluate import Evaluate

if TYPE_CHECKING:
    from mlopt.prepare import Prepared

_TIMED_FEEDS = 8


def assess(
    prepared: Prepared, artifacts: Mapping[str, Artifact], failures: dict[str, str], progress: Progress
) -> tuple[Judged, ...]:
    """One `Judged` per artifact, the baseline first. A candidate that its runtime refuses moves to `failures`."""
    accuracies = _accuracies(prepared, artifacts, failures, progress)
    measured: dict[str, Measurement] = {}
    if prepared.on_this_machine:
        with progress.phase("measure", f"{len(accuracies)} side by side"):
            measured, died = _measure(prepared, {name: artifacts[name] for name in accuracies})
        failures.update(died)
    precisions = {candidate.name: candidate.precision for candidate in prepared.plan.candidates}
    return tuple(
        Judged(
            name=name,
            file_size=artifacts[name].bytes,
            accuracy=accuracy,
            measurement=measured.get(name),
            verdicts=judge(
                prepared.profile.budgets,
                file_size=artifacts[name].bytes,
                accuracy=accuracy,
                measurement=measured.get(name),
                precision=precisions[name],
            ),
        )
        for name, accuracy in accuracies.items()
        if name not in failures
    )


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


def compared(prepared: Prepared, artifact: Artifact) -> Accuracy:
    """How one more ONNX model answers against the baseline."""
    outcomes = (_evaluated(prepared, BASELINE, one) for one in (prepared.exported, artifact))
    return _compared(prepared, *outcomes)


def _evaluated(prepared: Prepared, name: str, artifact: Artifact) -> Artifact:
    step = Evaluate(
        samples=prepared.evaluation,
        runtime=prepared.runtimes[name],
        device=prepared.device,
        threads=prepared.machine.cores,
        batch=prepared.batch(prepared.profile.method.offline_batch),
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
    return {**found, BASELINE: _of_itself(found[BASELINE])}


def _compared(prepared: Prepared, baseline: Artifact, outcome: Artifact) -> Accuracy:
    return compare(
        baseline,
        outcome,
        labels=prepared.evaluation.labels,
        generated=prepared.split is None,
        device=prepared.device,
        grade="measured" if prepared.on_this_machine else "estimated",
    )


def _of_itself(accuracy: Accuracy) -> Accuracy:
    """The baseline against itself is no estimate: it is the same model, however few the samples are."""
    same = "the same model"
    return dataclasses.replace(
        accuracy,
        drop=Interval(0.0, 0.0, 0.0, same) if accuracy.drop else None,
        agreement=Interval(1.0, 1.0, 1.0, same) if accuracy.agreement else None,
    )


def _measure(prepared: Prepared, artifacts: Mapping[str, Artifact]) -> tuple[dict[str, Measurement], dict[str, str]]:
    method = prepared.profile.method
    samples = prepared.evaluation
    single: list[dict[str, Any]] = list(
        itertools.islice(samples.feeds(batch=prepared.batch(method.batch)), _TIMED_FEEDS)
    )
    offline = next(iter(samples.feeds(batch=prepared.batch(method.offline_batch))))
    subjects = {name: Subject(name, artifact, prepared.runtimes[name]) for name, artifact in artifacts.items()}
    return measure_together(
        subjects.pop(BASELINE),
        list(subjects.values()),
        single=single,
        offline=offline,
        method=method,
        device=prepared.device,
    )
