"""Fine-tuning by distillation: a pruned model's weights trained to answer as the whole model does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import MissingDependency, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.prune.torch_graph import NoGradient, answers
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.step import installed
from mlopt.steps.quantizer import saved

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mlopt.samples.samples import Samples

_HELD: Final = 10  # one sample in ten judges what the others train
_SAME: Final = 1e-3  # between two runtimes, of the largest answer


@dataclass(frozen=True, slots=True)
class FineTune:
    """Train every weight for `epochs` passes over `training`, with the answers of `teacher` as the target.

    Classifiers are trained on the divergence of their class probabilities, everything else on squared differences.
    One sample in ten is kept out, and the weights that do best on those stay, which can be the ones from before.
    Raises `UnsupportedModel` for an operator that gradients cannot pass.
    """

    name: ClassVar[str] = "fine-tune"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime", "torch")

    training: Samples
    teacher: Artifact
    epochs: int = 4
    batch: int = 32
    rate: float = 1e-3
    seed: int = 0

    def run(self, source: Artifact, into: Path) -> None:
        if installed("torch") is None:
            raise MissingDependency(
                "Fine-tuning needs torch, which is not installed.", next="pip install 'mlopt[torch]'"
            )
        import onnx

        model = onnx.load(str(source.main))
        try:
            told = _trained(self, model, source)
        except NoGradient as error:
            raise UnsupportedModel(
                f"Gradients cannot pass {error}, so this model cannot be fine-tuned.",
                where=str(source.main),
                next="leave --finetune out: pruning fits the layers without it",
            ) from error
        result = into / "model.onnx"
        onnx.save(model, str(result))
        saved(result, notes=[*notes_in(source.main), told])


def _trained(step: FineTune, model: Any, source: Artifact) -> str:
    """The model's weights, trained in place; a sentence on how that went."""
    import numpy as np
    import torch

    torch.manual_seed(step.seed)
    values = _values(model)
    products = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    trained = sorted({name for node in products for name in node.input[1:3] if name in values})
    weights = [values[name].requires_grad_() for name in trained]
    taught = _taught(step)
    _check_same(model, values, source, next(step.training.feeds(batch=2)))
    optimizer = torch.optim.Adam(weights, lr=step.rate)
    order = np.random.default_rng(step.seed)
    learn = [number for number in range(len(step.training)) if number % _HELD]
    steps = step.epochs * (-(-len(learn) // step.batch))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    first = least = _held_out(step, model, values, taught)
    best = {name: value.detach().clone() for name, value in values.items()}
    for _ in range(step.epochs):
        for chosen in _batches(order.permutation(learn).tolist(), step.batch):
            optimizer.zero_grad()
            _loss(step, model, values, taught, chosen).backward()
            optimizer.step()
            schedule.step()
        loss = _held_out(step, model, values, taught)
        if loss < least:
            least, best = loss, {name: value.detach().clone() for name, value in values.items()}
    _put(model, best)
    return f"fine-tuned on {len(learn)} samples: distance from the whole model {first:.4g} before, {least:.4g} after"


def _values(model: Any) -> dict[str, torch.Tensor]:
    import onnx
    import torch

    return {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in model.graph.initializer}


def _put(model: Any, values: Mapping[str, torch.Tensor]) -> None:
    import onnx

    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(values[tensor.name].numpy(), tensor.name))


def _taught(step: FineTune) -> list[np.ndarray]:
    """The teacher's outputs for every training sample."""
    import numpy as np

    rows: list[list[np.ndarray]] = []
    with OnnxRuntimeRunner(step.teacher.main, threads=1) as runner:
        for feed in step.training.feeds(batch=step.batch):
            rows.append(runner.infer(feed))
    return [np.concatenate([row[position] for row in rows]) for position in range(len(rows[0]))]


def _check_same(
    model: Any, values: Mapping[str, torch.Tensor], source: Artifact, feed: Mapping[str, np.ndarray]
) -> None:
    """That torch computes what the runtime does: else training would teach another model."""
    import numpy as np
    import torch

    with OnnxRuntimeRunner(source.main, threads=1) as runner:
        wanted = runner.infer(feed)
    with torch.no_grad():
        answered = answers(model, values, {name: torch.from_numpy(value) for name, value in feed.items()})
    found: list[np.ndarray] = [np.asarray(value) for value in answered]
    for one, other in zip(wanted, found, strict=True):
        if np.abs(one - other).max() > _SAME * max(1.0, np.abs(one).max()):
            raise UnsupportedModel("Torch and ONNX Runtime disagree on this model.", where=str(source.main))


def _batches(order: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield sorted(int(number) for number in order[start : start + size])


def _held_out(step: FineTune, model: Any, values: Mapping[str, torch.Tensor], taught: Sequence[np.ndarray]) -> float:
    import torch

    held = [number for number in range(len(step.training)) if number % _HELD == 0]
    with torch.no_grad():
        losses = [
            len(chosen) * float(_loss(step, model, values, taught, chosen)) for chosen in _batches(held, step.batch)
        ]
    return sum(losses) / len(held)


def _loss(
    step: FineTune, model: Any, values: Mapping[str, torch.Tensor], taught: Sequence[np.ndarray], chosen: Sequence[int]
) -> torch.Tensor:
    """Of the mean sample, over all outputs."""
    import torch

    feed = {name: torch.from_numpy(value) for name, value in _feed(step, chosen).items()}
    total = torch.zeros(())
    for wanted, found in zip(taught, answers(model, values, feed), strict=True):
        target = torch.from_numpy(wanted[chosen])
        if wanted.ndim == 2 and wanted.shape[1] > 1:
            sure = _log_probabilities(target, like=wanted)
            total = total + (sure.exp() * (sure - _log_probabilities(found, like=wanted))).sum(1).mean()
        else:
            total = total + (target - found).square().mean() / max(float(wanted.var()), 1e-12)
    return total


def _log_probabilities(scores: torch.Tensor, *, like: np.ndarray) -> torch.Tensor:
    import numpy as np

    if like.min() >= 0 and np.allclose(like.sum(axis=1), 1, atol=1e-3):  # probabilities already
        return scores.clamp_min(1e-9).log()
    return scores.log_softmax(1)


def _feed(step: FineTune, chosen: Sequence[int]) -> dict[str, np.ndarray]:
    import dataclasses

    some = dataclasses.replace(step.training, indices=tuple(step.training.indices[number] for number in chosen))
    return next(some.feeds(batch=len(chosen)))
