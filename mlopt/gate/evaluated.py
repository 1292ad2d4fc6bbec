"""Both models run on the same samples, and their answers compared."""

from __future__ import annotations

from mlopt.artifact import Artifact
from mlopt.gate.answers import Right, check_numbers, compare_answers, count_nan, right_of
from mlopt.gate.result import Stored
from mlopt.gate.subjects import Opened, batch_of
from mlopt.gate.walk import Walk
from mlopt.measurement import Accuracy


def compare_both(walk: Walk) -> tuple[Accuracy | None, Right | None]:
    from mlopt.check import accuracy as answers_compared

    margin = walk.asked.profile.gate.top1
    labels, digest = walk.samples.labels, walk.samples.digest
    before = _evaluated(walk, walk.baseline) if isinstance(walk.baseline, Opened) else None
    if before:
        _check_labels(walk, before)
    outcomes = _evaluated(walk, walk.candidate)
    if before is None:
        _check_labels(walk, outcomes)
    right = right_of(outcomes, labels, digest)
    accuracy = None
    if before:
        was = right_of(before, labels, digest)
        walk.checks.append(check_numbers(count_nan(before), count_nan(outcomes), len(walk.samples)))
        accuracy = answers_compared.compare(
            before, outcomes, labels=labels, generated=labels is None, device=walk.device, grade="measured"
        )
        if walk.same:
            accuracy = answers_compared.of_itself(accuracy)
    else:
        assert isinstance(walk.baseline, Stored)
        was = Right.of(walk.baseline.answers) if walk.baseline.answers else None
        walk.checks.append(check_numbers(0, count_nan(outcomes), len(walk.samples)))
    if margin is not None:
        walk.note(compare_answers(was, right, margin))
    return accuracy, right


def _check_labels(walk: Walk, outcomes: Artifact) -> None:
    """Of strangers to the labels both models are equally seldom right, and that would pass."""
    from mlopt.check.labels import check_labels

    if walk.split and walk.samples.labels is not None:
        check_labels(outcomes, walk.samples.labels, offset=walk.offset, where=walk.split.source.where)


def _evaluated(walk: Walk, opened: Opened) -> Artifact:
    from mlopt.steps.evaluate import Evaluate
    from mlopt.store import Store, default_root

    method = walk.asked.profile.method
    walk.progress.about = opened.side.name
    step = Evaluate(
        samples=walk.samples,
        runtime=opened.side.runtime,
        device=walk.device,
        threads=walk.machine.cores,
        batch=batch_of(opened, method.offline_batch),
    )
    outcomes = Store(walk.asked.request.store or default_root(), walk.progress.on_step).run(step, opened.artifact)
    walk.progress.about = ""
    return outcomes
