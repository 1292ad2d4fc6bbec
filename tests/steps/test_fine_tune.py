"""Fine-tuning: the same graph in torch, nearer to its teacher afterwards, and never further away."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import GRAPHS
from trials import answers, run, source

from mlopt.artifact import Artifact, digest_of
from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.samples import Samples
from mlopt.signature import signature_of
from mlopt.step import Attempt, Going, Step
from mlopt.steps.fine_tune import FineTune
from mlopt.steps.prune_channels import PruneChannels
from mlopt.store import Store
from mlopt.upkeep import entries

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
    tuned = run(FineTune(some, whole, epochs=8), spoiled, tmp_path / "t")
    assert divergence(whole, tuned) < 0.2 * divergence(whole, spoiled), "on samples that it has not seen"
    assert notes_in(tuned.main)[:-1] == notes_in(pruned.main)
    assert notes_in(tuned.main)[-1].startswith("fine-tuned on 360 samples, 8 passes: loss ")


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


class Stopped(Exception):
    """Ctrl-C, or a machine that goes down."""


def test_training_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["depthwise"]())
    step = FineTune(samples(tmp_path, whole, 200), whole, epochs=4, batch=32)
    pruned = run(PruneChannels(step.training, share=0.3, multiple=4), whole, tmp_path / "p")
    heard: list[float] = []

    def stop(step: Step, going: Going) -> None:
        heard.append(going.done)
        if going.done > 2.5:
            raise Stopped

    def listen(step: Step, going: Going) -> None:
        heard.append(going.done)

    root = tmp_path / "store"
    with pytest.raises(Stopped):
        Store(root, listener=stop).run(step, pruned)
    assert [entry.made_by for entry in entries(root)] == ["a step that was stopped"]
    assert max(heard) < 3
    heard.clear()
    made = Store(root, listener=listen).run(step, pruned)
    assert (heard[0], heard[-1]) == (2, 4), "the third pass was not done, and is done again"
    assert made.digest == run(step, pruned, tmp_path / "at-once").digest
    assert [entry.room for entry in entries(root)] == ["results"], "what is finished leaves nothing unfinished"


def test_other_options_do_not_go_on_from_there(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["plain"]())
    step = FineTune(samples(tmp_path, whole, 40), whole, epochs=2)

    def stop(step: Step, going: Going) -> None:
        heard.append(going.done)
        if going.done == 1:
            raise Stopped

    for other in (step, dataclasses.replace(step, rate=1e-4)):
        heard: list[float] = []
        with pytest.raises(Stopped):
            Store(tmp_path / "store", listener=stop).run(other, whole)
        assert heard[0] == 0


def test_a_damaged_checkpoint_costs_the_time_and_nothing_else(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["plain"]())
    step = FineTune(samples(tmp_path, whole, 40), whole, epochs=2)
    heard: list[Going] = []
    for number, content in enumerate((b"", b"PK\x03\x04 cut off", b"\x80\x02}q\x00.")):
        folder, into = tmp_path / f"f{number}", tmp_path / f"i{number}"
        folder.mkdir()
        into.mkdir()
        (folder / "checkpoint.pt").write_bytes(content)
        heard.clear()
        step.resume(whole, into, Attempt(folder, heard.append))
        assert heard[0].done == 0
        assert heard[-1].done == 2
        assert digest_of(into) == run(step, whole, tmp_path / f"o{number}").digest


def test_how_far_it_is_can_be_heard(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["plain"]())
    heard: list[Going] = []
    folder = tmp_path / "f"
    folder.mkdir()
    (tmp_path / "i").mkdir()
    step = FineTune(samples(tmp_path, whole, 120), whole, epochs=2, batch=36)
    step.resume(whole, tmp_path / "i", Attempt(folder, heard.append))
    assert [going.done for going in heard] == [0, 0, 1 / 3, 2 / 3, 1, 1, 1 + 1 / 3, 1 + 2 / 3, 2]
    assert re.fullmatch(r"loss [\d.e-]+, \d+\.\d% answers as before", heard[-1].detail)


def test_an_operator_without_a_gradient_is_named(tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["unknown"]())
    with pytest.raises(UnsupportedModel, match=r"Gradients cannot pass node sums \(CumSum\)"):
        run(FineTune(samples(tmp_path, whole, 20), whole), whole, tmp_path / "t")


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_samples_than_train_anything_are_refused(count: int, tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["squeeze_excite"]())
    with pytest.raises(SamplesInvalid, match=f"at least 3 samples, and there are {count}") as refused:
        run(FineTune(samples(tmp_path, whole, count), whole, epochs=1), whole, tmp_path / "t")
    assert refused.value.where == str(tmp_path / "x.npz")


@pytest.mark.parametrize(("count", "batch"), [(3, 64), (4, 2)])
def test_no_batch_is_too_small_to_be_normalised(count: int, batch: int, tmp_path: Path) -> None:
    """Of three samples two are left to train on, in one batch; of four, three: a pair and one."""
    whole = source(tmp_path / "m", GRAPHS["squeeze_excite"]())
    step = FineTune(samples(tmp_path, whole, count), whole, epochs=1, batch=batch)
    assert notes_in(run(step, whole, tmp_path / "t").main)[-1].startswith(f"fine-tuned on {count - 1} samples")
    with pytest.raises(ValueError, match="batch is 1, and must be at least 2"):
        dataclasses.replace(step, batch=1)


@pytest.mark.parametrize("kind", ["right", "strangers", "none"])
def test_labels_count_where_they_are_of_the_models_classes(kind: str, tmp_path: Path) -> None:
    whole = source(tmp_path / "m", GRAPHS["plain"]())
    some = samples(tmp_path, whole, 120)
    x = np.load(tmp_path / "x.npz")["x"]
    right = answers(whole, {"image": x}).argmax(1)
    labels = {"right": {"y": right}, "strangers": {"y": (right + 1) % (right.max() + 1)}, "none": {}}[kind]
    np.savez(tmp_path / "y.npz", x=x, **labels)
    some = open_samples(Asked(str(tmp_path / "y.npz"), calibration=120), signature_of(whole.main)).calibration
    heard: list[Going] = []
    (tmp_path / "f").mkdir()
    (tmp_path / "i").mkdir()
    FineTune(some, whole, epochs=1).resume(whole, tmp_path / "i", Attempt(tmp_path / "f", heard.append))
    assert heard[0].detail.endswith("% right") == (kind == "right")
    if kind == "right":
        assert ", 100.0% answers as before, 100.0% right" in heard[0].detail
