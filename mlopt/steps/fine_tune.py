"""Fine-tuning by distillation: a pruned model's weights trained to answer as the whole model does."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import MissingDependency, SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.prune.distil import Lesson, Score, Student
from mlopt.prune.torch_graph import NoGradient
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.step import Attempt, Going, installed
from mlopt.steps.quantizer import saved

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.samples import Samples

EPOCHS: Final = 20
_FEWEST: Final = 3  # samples: one judges what the others train, and a batch that is normalised by itself has two
_SAME: Final = 1e-3  # between two runtimes, of the largest answer


@dataclass(frozen=True, slots=True)
class FineTune:
    """Train every weight for `epochs` passes over `training`, with the answers of `teacher` as the target.

    Classifiers are trained on the divergence of their class probabilities, everything else on squared differences.
    Labels count as much as the teacher, where the samples have some that it mostly agrees with.
    With `vary` pictures are moved, turned over and mixed, and the teacher answers what the student sees. One sample in
    ten is kept out, and the weights that do best on those stay, which can be the ones from before. What was done is
    kept after each pass, so that training which was stopped goes on, and comes to the same weights. Raises
    `UnsupportedModel` for an operator that gradients cannot pass, `SamplesInvalid` for fewer samples than train
    anything.
    """

    name: ClassVar[str] = "fine-tune"
    version: ClassVar[int] = 4
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "torch")

    training: Samples
    teacher: Artifact
    epochs: int = EPOCHS
    batch: int = 64
    rate: float = 1e-3
    seed: int = 0
    vary: bool = True

    def __post_init__(self) -> None:
        """Raises `ValueError`."""
        if self.batch < 2:
            raise ValueError(f"batch is {self.batch}, and must be at least 2: a batch is normalised by itself")

    def run(self, source: Artifact, into: Path) -> None:
        """All at once: what is done is lost when it is stopped."""
        with tempfile.TemporaryDirectory(prefix="mlopt-tune-") as folder:
            self.resume(source, into, Attempt(Path(folder)))

    def resume(self, source: Artifact, into: Path, attempt: Attempt) -> None:
        if installed("torch") is None:
            raise MissingDependency(
                "Fine-tuning needs torch, which is not installed.", next="pip install 'mlopt[torch]'"
            )
        if len(self.training) < _FEWEST:
            raise SamplesInvalid(
                f"Fine-tuning needs at least {_FEWEST} samples, and there are {len(self.training)}.",
                where=self.training.source.where,
                next="give --finetune more samples, or leave it out: pruning fits the layers without it",
            )
        import onnx

        model = onnx.load(str(source.main))
        with OnnxRuntimeRunner(self.teacher.main, threads=1) as teacher:
            lesson = self._lesson(teacher)
            try:
                student = Student(model, lesson)
            except NoGradient as error:
                raise UnsupportedModel(
                    f"Gradients cannot pass {error}, so this model cannot be fine-tuned.",
                    where=str(source.main),
                    next="leave --finetune out: pruning fits the layers without it",
                ) from error
            _check_same(student, source, lesson.feed(lesson.held[:2]))
            student.epochs(attempt.folder, lambda done, score: attempt.tell(self._going(done, score)))
        student.put_best()
        result = into / "model.onnx"
        onnx.save(model, str(result))
        saved(result, notes=[*notes_in(source.main), _note(student)])

    def _lesson(self, teacher: OnnxRuntimeRunner) -> Lesson:
        return Lesson(
            self._feed,
            teacher.infer,
            len(self.training),
            epochs=self.epochs,
            batch=self.batch,
            rate=self.rate,
            seed=self.seed,
            vary=self.vary,
            labels=self.training.labels,
        )

    def _feed(self, numbers: Sequence[int]) -> Mapping[str, np.ndarray]:
        some = dataclasses.replace(self.training, indices=tuple(self.training.indices[number] for number in numbers))
        return next(some.feeds(batch=len(numbers)))

    def _going(self, done: float, score: Score) -> Going:
        return Going("epoch", done, self.epochs, str(score))


def _note(student: Student) -> str:
    lesson = student.lesson
    return (
        f"fine-tuned on {len(lesson.learnt)} samples, {lesson.epochs} passes: {student.first} before, "
        f"{student.least} after"
    )


def _check_same(student: Student, source: Artifact, feed: Mapping[str, np.ndarray]) -> None:
    """That torch computes what the runtime does: else training would teach another model."""
    import numpy as np
    import torch

    with OnnxRuntimeRunner(source.main, threads=1) as runner:
        wanted = runner.infer(feed)
    with torch.no_grad():
        found: list[np.ndarray] = [np.asarray(value) for value in student.answers(feed)]
    for one, other in zip(wanted, found, strict=True):
        if np.abs(one - other).max() > _SAME * max(1.0, np.abs(one).max()):
            raise UnsupportedModel("Torch and ONNX Runtime disagree on this model.", where=str(source.main))
