"""Both models run on the same samples, and their answers compared."""

from __future__ import annotations

import json

from mlopt.artifact import Artifact
from mlopt.errors import UnsupportedModel
from mlopt.gate.answers import Right, check_numbers, compare_answers, count_nan, right_of
from mlopt.gate.result import Stored
from mlopt.gate.subjects import Opened
from mlopt.gate.walk import Walk
from mlopt.measurement import Accuracy


def compare_both(walk: Walk) -> tuple[Accuracy | None, Right | None]:
    """Raises `UnsupportedModel` for answers of two shapes, `LabelsMismatch`, and what running a model raises."""
    from mlopt.check import accuracy as answers_compared

    margin = walk.asked.profile.gate.top1
    labels, digest = walk.samples.labels, walk.samples.digest
    before = _evaluated(walk, walk.baseline) if isinstance(walk.baseline, Opened) else None
    if before:
        _check_labels(walk, before)
    outcomes = _evaluated(walk, walk.candidate)
    if before is None:
        _check_labels(walk, outcomes)
    else:
        _check_outputs(walk, before, outcomes)
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
        was_fed = walk.baseline.samples, walk.baseline.method["batch"]
        fed = digest, walk.batch(walk.asked.profile.method.query_batch)  # what is generated depends on the batch
        nan = walk.baseline.nan if was_fed == fed else None
        walk.checks.append(check_numbers(nan, count_nan(outcomes), len(walk.samples)))
    if margin is not None:
        walk.note(compare_answers(was, right, margin))
    return accuracy, right


def _check_labels(walk: Walk, outcomes: Artifact) -> None:
    """Of strangers to the labels both models are equally seldom right, and that would pass."""
    from mlopt.check.labels import check_labels

    if walk.split and walk.samples.labels is not None:
        check_labels(outcomes, walk.samples.labels, offset=walk.offset, where=walk.split.source.where)


def _check_outputs(walk: Walk, before: Artifact, outcomes: Artifact) -> None:
    """As they came out: what a file says of its outputs may leave a size open."""
    one, other = (_shapes(found) for found in (outcomes, before))
    if one != other:
        raise UnsupportedModel(
            f"{walk.candidate.side.name} gives {_spelled(one)} for a sample and {walk.baseline.side.name} "
            f"{_spelled(other)}, so their answers cannot be compared.",
            next="give the baseline of this model, or export one of them again with the outputs of the other",
        )


def _shapes(outcomes: Artifact) -> list[tuple[int, ...]]:
    import numpy as np

    count = len(json.loads(outcomes.main.read_text())["outputs"])
    return [np.load(outcomes.path / f"{position}.npy", mmap_mode="r").shape[1:] for position in range(count)]


def _spelled(shapes: list[tuple[int, ...]]) -> str:
    told = ", ".join("×".join(map(str, shape)) or "a number" for shape in shapes)
    return f"{len(shapes)} output{'s' if len(shapes) != 1 else ''} ({told})"


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
        batch=walk.batch(method.query_batch),
    )
    outcomes = Store(walk.asked.request.store or default_root(), walk.progress.on_step).run(step, opened.artifact)
    walk.progress.about = ""
    return outcomes
