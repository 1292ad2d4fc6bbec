"""`mlopt prune`: the largest share that is proven to keep the budget, and what a person reads of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from graphs import GRAPHS
from nets import save
from walks import labelled, mlopt

from mlopt.errors import BudgetInfeasible, Misused, SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.progress import Progress
from mlopt.pruning import Pruning, Tuning, prune_model
from mlopt.request import Request
from mlopt.samples.generated import GeneratedSamples

pytestmark = pytest.mark.slow
AVX2 = "x86-64-avx2"  # widths in eights, whatever machine this is


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = save(GRAPHS["residual"](), tmp_path / "net.onnx")
    labelled(tmp_path / "samples.npz", path, count=600, shape=(3, 8, 8))
    return path


def pruned(
    model: Path,
    *,
    share: float | None = None,
    max_drop: float | None = None,
    samples: bool = True,
    tuning: Tuning | None = None,
    recipes: tuple[str, ...] = (),
    target: str = AVX2,
) -> Pruning:
    where = str(model.parent / "samples.npz") if samples else None
    request = Request(model=model, target=target, samples=where, max_drop=max_drop, recipes=recipes)
    return prune_model(request, Progress(quiet=True), share=share, tuning=tuning)


def test_the_last_share_that_keeps_the_budget(model: Path) -> None:
    found = pruned(model, max_drop=0.15)
    assert [trial.keeps(0.15) for trial in found.trials] == [True] * (len(found.trials) - 1) + [
        found.chosen is found.trials[-1]
    ]
    gone = [trial.gone for trial in found.trials]
    assert gone == sorted(set(gone)), "each goes further than the one before"
    assert all(trial.gone >= trial.share for trial in found.trials)
    assert found.chosen.accuracy.drop is not None
    assert found.chosen.accuracy.drop.high <= 0.15
    kept = {layer.name: layer.after for layer in found.chosen.layers}
    assert all(width % 8 == 0 for name, width in kept.items() if name != "head")
    assert {layer.name: layer.stays for layer in found.chosen.layers if layer.stays} == {"head": "output 'logits'"}


def test_a_tighter_budget_prunes_no_more(model: Path) -> None:
    assert pruned(model, max_drop=0.05).chosen.gone <= pruned(model, max_drop=0.3).chosen.gone


def test_a_budget_that_nothing_keeps_names_the_nearest(model: Path) -> None:
    with pytest.raises(BudgetInfeasible, match="No share keeps a drop of at most 1 points") as caught:
        pruned(model, max_drop=0.01)
    nearest = float(caught.value.next.split()[1].rstrip("%")) / 100
    assert pruned(model, max_drop=nearest).chosen.gone > 0


def test_a_budget_that_so_few_samples_prove_for_no_model(model: Path) -> None:
    with pytest.raises(BudgetInfeasible, match=r"472 evaluation samples cannot prove a drop of at most 0\.2 points"):
        pruned(model, max_drop=0.002)


def test_what_is_missing_is_said(model: Path, tmp_path: Path) -> None:
    with pytest.raises(Misused, match="seen on samples, and there are none"):
        pruned(model, samples=False)
    with pytest.raises(UnsupportedModel, match=r"At most \d\d\.\d% of the model's work can be pruned"):
        pruned(model, share=0.97)
    import numpy as np

    np.savez(tmp_path / "samples.npz", x=np.load(tmp_path / "samples.npz")["x"])
    with pytest.raises(SamplesInvalid, match="the samples have no labels"):
        pruned(model)
    assert pruned(model, share=0.2).chosen.accuracy.agreement is not None


@pytest.mark.torch
def test_fine_tuning_trains_on_nothing_that_judges(model: Path, tmp_path: Path) -> None:
    import numpy as np

    held = pruned(model, share=0.2).prepared.evaluation
    assert not isinstance(held, GeneratedSamples)
    np.savez(tmp_path / "judges.npz", x=np.load(tmp_path / "samples.npz")["x"][list(held.indices)])
    with pytest.raises(SamplesInvalid, match="Only 0 of 472 samples to train on are not among those that judge"):
        pruned(model, share=0.2, tuning=Tuning(str(tmp_path / "judges.npz")))
    labelled(tmp_path / "more.npz", model, count=900, shape=(3, 8, 8))
    found = pruned(model, share=0.5, tuning=Tuning(str(tmp_path / "more.npz"), epochs=1))
    assert [link.step for link in found.chosen.artifact.lineage][-2:] == ["prune-channels", "fine-tune"]
    assert "fine-tuned on " in notes_in(found.chosen.artifact.main)[-1]


@pytest.mark.openvino
def test_pruned_and_quantized_in_one_search(model: Path) -> None:
    recipes = ("int8-static", "openvino-int8")
    found = pruned(model, max_drop=0.15, recipes=recipes, target="host")
    assert {trial.recipe for trial in found.trials} == set(recipes)
    assert [trial.share for trial in found.trials][:3] == [0, 0, 0.05], "the whole model comes first"
    for recipe in recipes:
        *earlier, last = [trial for trial in found.trials if trial.recipe == recipe]
        assert all(trial.keeps(0.15) for trial in earlier), "the first that is not proven ends it, for each"
        assert [trial.gone for trial in earlier] == sorted({trial.gone for trial in earlier})
        assert last.gone >= 0
    timed = [trial for trial in found.trials if trial.speedup]
    assert timed == [trial for trial in found.trials if trial.keeps(0.15)], "what keeps the budget is timed, all of it"
    assert found.chosen == max(timed, key=lambda trial: trial.speedup.value if trial.speedup else 0)
    assert found.chosen.runtime == {"int8-static": "onnxruntime", "openvino-int8": "openvino"}[found.chosen.recipe]
    lineage = [link.step for link in found.chosen.artifact.lineage]
    assert "quantize-static" in lineage
    assert ("prune-channels" in lineage) == (found.chosen.share > 0)


def test_for_another_machine_the_most_that_keeps_the_budget(model: Path) -> None:
    found = pruned(model, max_drop=0.15, recipes=("int8-static",), target="rpi5")
    kept = [trial for trial in found.trials if trial.keeps(0.15)]
    assert found.chosen == kept[-1]
    assert all(trial.speedup is None for trial in found.trials)


NEVER = """schema = 1
summary = "a head that is not there"
precision = "int8"
needs-samples = true

[[step]]
name = "quantize-static"
op-types = ["LSTM"]
"""


def test_a_recipe_that_dies_leaves_the_others_to_go_on(model: Path, tmp_path: Path) -> None:
    (tmp_path / "never.toml").write_text(NEVER)
    (tmp_path / "no.toml").write_text(NEVER)
    never, no = (str(tmp_path / f"{name}.toml") for name in ("never", "no"))
    found = pruned(model, max_drop=0.15, recipes=(never, "int8-static"), target="rpi5")
    assert {trial.recipe for trial in found.trials} == {"int8-static"}
    assert found.chosen.share > 0, "it is not taken for a model that has no more to give"
    assert list(found.dropped) == ["never"]
    assert pruned(model, share=0.2, recipes=(never, "int8-static"), target="rpi5").chosen.recipe == "int8-static"
    with pytest.raises(UnsupportedModel) as alone:
        pruned(model, max_drop=0.15, recipes=(never,), target="rpi5")
    assert alone.value.what == found.dropped["never"]
    with pytest.raises(UnsupportedModel, match=r"No recipe can follow pruning. never: .* no: "):
        pruned(model, share=0.2, recipes=(never, no), target="rpi5")


def test_recipes_that_cannot_follow_are_named(model: Path) -> None:
    with pytest.raises(Misused, match="pruned-int8 prunes by itself"):
        pruned(model, recipes=("pruned-int8",))
    with pytest.raises(Misused, match="rtx-int8 cannot follow pruning: "):
        pruned(model, recipes=("rtx-int8",))


def test_on_the_command_line(model: Path, tmp_path: Path) -> None:
    done = mlopt(
        *("prune", model, "--samples", "samples.npz", "-t", AVX2, "--max-drop", "30%", "-o", "small.onnx"), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "of the multiply-accumulates gone, drop of top-1 " in done.stdout
    assert "multiply-accumulates" in done.stdout
    assert "output 'logits'" in done.stdout
    small = onnx.load(str(tmp_path / "small.onnx"))
    assert small.ByteSize() < onnx.load(str(model)).ByteSize()


def test_a_share_that_misses_the_budget_is_written_and_said(model: Path, tmp_path: Path) -> None:
    done = mlopt(
        *("prune", model, "--samples", "samples.npz", "-t", AVX2, "--share", "0.5", "--max-drop", "1%", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "A drop of at most 1 points is not proven: drop of top-1 +" in done.stderr
    facts = json.loads(done.stdout)
    assert facts["gone"] >= 0.5
    assert facts["after"]["work"] < facts["before"]["work"]
    assert (tmp_path / "net-pruned" / "model.onnx").is_file()


@pytest.mark.torch
def test_training_that_ctrl_c_stopped_goes_on_at_the_same_command(model: Path, tmp_path: Path) -> None:
    labelled(tmp_path / "more.npz", model, count=2000, shape=(3, 8, 8))
    typed = ("prune", "net.onnx", "--samples", "samples.npz", "-t", AVX2, "--share", "0.3", "-o", "small.onnx")
    typed = (*typed, "--finetune", "more.npz", "--epochs", "6")
    first = subprocess.Popen(
        [sys.executable, "-m", "mlopt", *typed], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert first.stderr
    until = next(line for line in first.stderr if "epoch 2 of 6" in line)
    assert re.search(r"fine-tune +epoch 2 of 6  30%  .* left, loss [\d.e-]+, [\d.]+% answers as before", until)
    os.killpg(first.pid, signal.SIGINT)
    assert "interrupted; nothing was half-written" in first.stderr.read()
    assert first.wait() == 130
    assert not (tmp_path / "small.onnx").exists()
    done = mlopt(*typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "epoch 1 of 6" not in done.stderr
    assert "epoch 6 of 6" in done.stderr
    small = (tmp_path / "small.onnx").read_bytes()
    again = mlopt(*typed, "--cache-dir", "fresh", cwd=tmp_path)
    assert "epoch 1 of 6" in again.stderr
    assert (tmp_path / "small.onnx").read_bytes() == small, "as if nothing had happened"
