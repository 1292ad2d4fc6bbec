"""Fine-tuning: the same graph in torch, nearer to its teacher afterwards, and never further away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import GRAPHS
from trials import answers, run, source

from mlopt.artifact import Artifact
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.samples import Samples
from mlopt.signature import signature_of
from mlopt.steps.fine_tune import FineTune
from mlopt.steps.prune_channels import PruneChannels

pytestmark = pytest.mark.torch


def samples(folder: Path, base: Artifact, count: int = 120) -> Samples:
    signature = signature_of(base.main)
    shape = [size for size in signature.inputs[0].shape[1:] if isinstance(size, int)]
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((count + 1, *shape)).astype(np.float32))
    return open_samples(Asked(str(folder / "x.npz"), calibration=count), signature).calibration


def fresh(base: Artifact) -> dict[str, np.ndarray]:
    shape = [size for size in signature_of(base.main).inputs[0].shape[1:] if isinstance(size, int)]
    return {"image": np.random.default_rng(7).standard_normal((64, *shape)).astype(np.float32)}


def distance(one: Artifact, other: Artifact) -> float:
    return float(np.square(answers(one, fresh(one)) - answers(other, fresh(one))).mean())


def divergence(one: Artifact, other: Artifact) -> float:
    """Kullback and Leibler's, of class probabilities."""
    logs = []
    for artifact in (one, other):
        scores = answers(artifact, fresh(one)).astype(np.float64)
        logs.append(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


def test_answers_come_nearer_to_those_of_the_whole_model(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["plain"]())
    some = samples(tmp_path, whole, 400)
    pruned = run(PruneChannels(some, share=0.5, multiple=4), whole, tmp_path / "p")
    spoiled = onnx.load(str(pruned.main))
    for tensor in spoiled.graph.initializer:
        if tensor.name in ("b_w", "head_w"):
            values = onnx.numpy_helper.to_array(tensor)
            noise = np.random.default_rng(0).standard_normal(values.shape) * 0.3 * values.std()
            tensor.CopyFrom(onnx.numpy_helper.from_array((values + noise).astype(np.float32), tensor.name))
    spoiled = source(tmp_path / "s", spoiled)
    tuned = run(FineTune(some, whole, epochs=4), spoiled, tmp_path / "t")
    assert divergence(whole, tuned) < 0.2 * divergence(whole, spoiled), "on samples that it has not seen"
    assert notes_in(tuned.main)[:-1] == notes_in(pruned.main)
    assert notes_in(tuned.main)[-1].startswith("fine-tuned on 360 samples: distance from the whole model ")


# Every graph but those with an operator that torch_graph does not know.
@pytest.mark.parametrize("name", sorted(set(GRAPHS) - {"mlp", "split", "unknown"}))
def test_every_kind_of_graph_can_be_trained(name: str, tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS[name]())
    tuned = run(FineTune(samples(tmp_path, whole, 20), whole, epochs=1, rate=1e-6), whole, tmp_path / "t")
    onnx.checker.check_model(str(tuned.main), full_check=True)
    assert distance(whole, tuned) < 1e-3


def test_training_that_leads_away_is_undone(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["residual"]())
    tuned = run(FineTune(samples(tmp_path, whole, 20), whole, epochs=1, rate=10.0), whole, tmp_path / "t")
    assert distance(whole, tuned) == 0


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["depthwise"]())
    step = FineTune(samples(tmp_path, whole, 40), whole, epochs=1)
    pruned = run(PruneChannels(step.training, share=0.3, multiple=4), whole, tmp_path / "p")
    assert run(step, pruned, tmp_path / "1").digest == run(step, pruned, tmp_path / "2").digest


def test_an_operator_without_a_gradient_is_named(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["unknown"]())
    with pytest.raises(UnsupportedModel, match=r"Gradients cannot pass node sums \(CumSum\)"):
        run(FineTune(samples(tmp_path, whole, 20), whole), whole, tmp_path / "t")
