"""Distillation: the weights of an ONNX graph trained in torch until it answers as another model does."""

from __future__ import annotations

import io
import math
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.prune.norms import Norms
from mlopt.prune.torch_graph import answers
from mlopt.prune.vary import Varied, varied

if TYPE_CHECKING:
    import numpy as np
    import torch

    Feed = Mapping[str, np.ndarray]

_HELD: Final = 10  # one sample in ten judges what the others train
_FILE: Final = "checkpoint.pt"
_AGREES: Final = 1 / 3  # of the labels, at least, if they are of the model's classes
_LOOKS: Final = 8  # batches that show how large what layers write is
_WARM: Final = 0.05  # of all steps, in which the rate rises


@dataclass(frozen=True, slots=True)
class Lesson:
    """`feed` gives the samples of these numbers, of `count`; `teacher` what is to be answered to them. `labels` count
    as much as the teacher does, where there are any."""

    feed: Callable[[Sequence[int]], Feed]
    teacher: Callable[[Feed], list[np.ndarray]]
    count: int
    epochs: int
    batch: int
    rate: float
    seed: int
    vary: bool
    labels: np.ndarray | None = None

    @property
    def learnt(self) -> list[int]:
        return [number for number in range(self.count) if number % _HELD]

    @property
    def held(self) -> list[int]:
        return list(range(0, self.count, _HELD))


@dataclass(frozen=True, slots=True)
class Score:
    """On the samples that are held back: the mean loss; of a classifier how often the first class is the same, and
    with labels how often it is theirs."""

    loss: float
    same: float | None = None
    right: float | None = None

    def __str__(self) -> str:
        said = [f"loss {self.loss:.4g}"]
        said += [f"{self.same:.1%} answers as before"] if self.same is not None else []
        said += [f"{self.right:.1%} right"] if self.right is not None else []
        return ", ".join(said)


class Student:
    """A model that is being trained: all weights of its products. Each epoch has its own random numbers, and all that
    leads from one to the next is in the checkpoint: so training that goes on comes to the same bytes.

    Raises `NoGradient`.
    """

    def __init__(self, model: Any, lesson: Lesson) -> None:
        import onnx
        import torch

        self.lesson, self._model, self.done = lesson, model, 0
        self.values = {
            one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in model.graph.initializer
        }
        products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
        names = sorted({name for node in products for name in node.input[1:3] if name in self.values})
        self._names, self._norms = names, Norms(model, self.values)
        self._taught = [(numbers, lesson.teacher(lesson.feed(numbers))) for numbers in self._batches(lesson.held)]
        self._labels = lesson.labels if self._fit(lesson.labels) else None
        self.first = self.least = self.score()
        self._best = self._copied()
        with torch.no_grad():
            for _, numbers in zip(range(_LOOKS), self._batches(lesson.learnt), strict=False):
                answers(self._model, self.values, _tensors(lesson.feed(numbers)), self._norms.observe)
        self._norms.begin()
        weights = [self.values[name].requires_grad_() for name in names if name not in self._norms.biases]
        self._optimizer = torch.optim.Adam([*weights, *self._norms.trained()], lr=lesson.rate)

    def answers(self, feed: Feed) -> list[torch.Tensor]:
        return answers(self._model, self.values, _tensors(feed), self._norms.apply)

    def epochs(self, folder: Path, on_batch: Callable[[float, Score], None]) -> None:
        """All that are left to do. `on_batch` hears how many are done, and the last score."""
        self._load(folder / _FILE)
        score = self.least
        on_batch(self.done, score)
        while self.done < self.lesson.epochs:
            for part in self._epoch():
                on_batch(self.done + part, score)
            score = self.score()
            if score.loss < self.least.loss:
                self.least, self._best = score, self._copied()
            self.done += 1
            self._save(folder / _FILE)
            on_batch(self.done, score)

    def put_best(self) -> None:
        """The weights that did best, which can be those from before, into the model."""
        import onnx

        for tensor in self._model.graph.initializer:
            if tensor.name in self._best:
                tensor.CopyFrom(onnx.numpy_helper.from_array(self._best[tensor.name].numpy(), tensor.name))

    def score(self) -> Score:
        import torch

        loss, same, right, count = 0.0, 0, 0, len(self.lesson.held)
        with torch.no_grad():
            for numbers, wanted in self._taught:
                found = self.answers(self.lesson.feed(numbers))
                loss += len(numbers) * float(self._loss(wanted, found, Varied({}), numbers))
                if _classifies(wanted[0]):
                    first = found[0].argmax(1).numpy()
                    same += int((first == wanted[0].argmax(1)).sum())
                    right += int((first == self._labels[numbers]).sum()) if self._labels is not None else 0
        classifies = _classifies(self._taught[0][1][0])
        return Score(
            loss / count, same / count if classifies else None, right / count if self._labels is not None else None
        )

    def _epoch(self) -> Iterator[float]:
        """One pass; yields what part of it is done."""
        import numpy as np

        lesson = self.lesson
        random = np.random.default_rng((lesson.seed, self.done))
        batches = list(self._batches(random.permutation(lesson.learnt).tolist()))
        if len(batches) > 1 and len(batches[-1]) < max(2, lesson.batch / 2):
            batches.pop()  # so few say little of how large what layers write is, and one says nothing
        self._norms.training = True
        for number, numbers in enumerate(batches):
            part = (self.done + (number + 1) / len(batches)) / (lesson.epochs + 1)
            for group in self._optimizer.param_groups:
                group["lr"] = lesson.rate * min(1.0, part / _WARM) * (1 + math.cos(math.pi * part)) / 2
            some = Varied(lesson.feed(numbers))
            some = varied(some.feed, random) if lesson.vary else some
            self._optimizer.zero_grad()
            self._loss(lesson.teacher(some.feed), self.answers(some.feed), some, numbers).backward()
            self._optimizer.step()
            yield number / len(batches)
        self._norms.training = False

    def _loss(
        self, wanted: Sequence[np.ndarray], found: Sequence[torch.Tensor], some: Varied, numbers: Sequence[int]
    ) -> torch.Tensor:
        import torch
        from torch.nn import functional

        total = _distance(wanted, found)
        if self._labels is not None:
            labels = self._labels[numbers]
            logs = _log_probabilities(found[0], like=wanted[0])
            total = total + some.kept * functional.nll_loss(logs, torch.from_numpy(labels))
            if some.partner is not None:
                total = total + (1 - some.kept) * functional.nll_loss(logs, torch.from_numpy(labels[some.partner]))
        return total

    def _fit(self, labels: np.ndarray | None) -> bool:
        """Whether labels are of the teacher's classes: it agrees with them far oftener than by chance."""
        if labels is None or not _classifies(self._taught[0][1][0]):
            return False
        classes = self._taught[0][1][0].shape[1]
        agreed = sum(int((wanted[0].argmax(1) == labels[numbers]).sum()) for numbers, wanted in self._taught)
        return bool(labels.min() >= 0 and labels.max() < classes) and agreed >= _AGREES * len(self.lesson.held)

    def _batches(self, numbers: Sequence[int]) -> Iterator[list[int]]:
        for start in range(0, len(numbers), self.lesson.batch):
            yield list(numbers[start : start + self.lesson.batch])

    def _copied(self) -> dict[str, torch.Tensor]:
        return {name: self.values[name].detach().clone() for name in self._names} | self._norms.folded()

    def _kept(self) -> dict[str, torch.Tensor]:
        return {name: self.values[name].detach() for name in self._names} | {
            name: value.detach() for name, value in self._norms.tensors()
        }

    def _save(self, path: Path) -> None:
        import torch

        state = {
            "done": self.done,
            "weights": self._kept(),
            "optimizer": self._optimizer.state_dict(),
            "best": self._best,
            "least": (self.least.loss, self.least.same, self.least.right),
        }
        whole = io.BytesIO()  # torch's own writing hides what is wrong with a disk
        torch.save(state, whole)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(whole.getbuffer())
        os.replace(fresh, path)

    def _load(self, path: Path) -> None:
        """Go on from a checkpoint; where there is none, or one that power loss damaged, from the beginning."""
        import torch

        try:
            state = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
            return
        with torch.no_grad():
            for name, value in self._kept().items():
                value.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.done, self._best, self.least = state["done"], state["best"], Score(*state["least"])


def _tensors(feed: Feed) -> dict[str, torch.Tensor]:
    import torch

    return {name: torch.from_numpy(value) for name, value in feed.items()}


def _distance(wanted: Sequence[np.ndarray], found: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of the mean sample, over all outputs: the divergence of class probabilities, else squared differences."""
    import torch

    total = torch.zeros(())
    for target, answer in zip(wanted, found, strict=True):
        if _classifies(target):
            sure = _log_probabilities(torch.from_numpy(target), like=target)
            total = total + (sure.exp() * (sure - _log_probabilities(answer, like=target))).sum(1).mean()
        else:
            total = total + (torch.from_numpy(target) - answer).square().mean() / max(float(target.var()), 1e-12)
    return total


def _classifies(output: np.ndarray) -> bool:
    return output.ndim == 2 and output.shape[1] > 1


def _log_probabilities(scores: torch.Tensor, *, like: np.ndarray) -> torch.Tensor:
    import numpy as np

    if like.min() >= 0 and np.allclose(like.sum(axis=1), 1, atol=1e-3):  # probabilities already
        return scores.clamp_min(1e-9).log()
    return scores.log_softmax(1)
