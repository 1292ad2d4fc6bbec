"""Real models, exported and evaluated on all samples, get exactly the answers that were documented for them.

The counts were taken with each model's own framework; equal counts mean that sniffing, export, preprocessing
and labels are all right at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mlopt.project import PreprocessSpec
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.samples import Samples, digest_samples
from mlopt.signature import signature
from mlopt.source import export_step, open_model
from mlopt.steps.evaluate import Evaluate
from mlopt.store import Store

pytestmark = [pytest.mark.real, pytest.mark.slow]


PLAIN = Asked("")


@dataclass(frozen=True)
class Case:
    path: str
    samples: str
    right: int
    asked: Asked = PLAIN
    factory: str | None = None


TORCHVISION = PreprocessSpec(preset="torchvision")
ROTATED = PreprocessSpec(preset="torchvision", resize=256, crop=(224, 224), rotate=180)
CASES = {
    "squeezenet-onnx": Case("models/onnx/squeezenet1_0.onnx", "nips17_imagenet", 223),
    "mobilenetv1-onnx": Case("models/onnx/mobilenetv1_x0_25.onnx", "nips17_imagenet", 228),
    "mobilenetv2-torch": Case(
        "models/torch/mobilenet_v2_rot180.pth", "nips17_imagenet", 365, Asked("", ROTATED), "factories:mobilenet_v2"
    ),
    "resnet20-torch": Case(
        "models/torch/resnet20_cifar10.pth",
        "cifar10/test_2000.npz",
        1627,
        Asked("", TORCHVISION),
        "factories:resnet20_cifar",
    ),
    "mobilenet-keras": Case("models/keras/mobilenet_v1_025_224.keras", "nips17_imagenet", 255),
    "resnet8-keras": Case(
        "mlperf_tiny/pretrainedResnet.h5", "cifar10/test_2000.npz", 1528, Asked("", PreprocessSpec(preset="raw"))
    ),
    "mobilenet-tflite": Case(
        "models/tflite/mobilenet_v1_0.25_224_float.tflite", "nips17_imagenet", 255, Asked("", label_offset=1)
    ),
}
NEEDS = {"torch": pytest.mark.torch, "keras": pytest.mark.tensorflow, "tflite": pytest.mark.tensorflow}


def _marked(name: str) -> object:
    mark = NEEDS.get(name.rpartition("-")[2])
    return pytest.param(CASES[name], id=name, marks=[mark] if mark else [])


@pytest.mark.parametrize("case", [_marked(name) for name in CASES])
def test_documented_count(case: Case, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parent)
    store = Store(tmp_path / "store")
    source = open_model(data / case.path, store=store, factory=case.factory)
    exported = store.run(export_step(source, opset=20, factory=case.factory), source)
    found = signature(exported)
    split = open_samples(replace(case.asked, where=str(data / case.samples)), found)
    everything = tuple(range(len(split.source)))
    samples = Samples(split.source, everything, found, {}, digest_samples(split.source, everything, {}))
    outcomes = store.run(Evaluate(samples, "onnxruntime", "any", threads=2), exported)
    assert json.loads(outcomes.main.read_text())["samples"] == len(everything)
    answers = np.load(outcomes.path / "0.npy")
    labels = samples.labels
    assert labels is not None
    # A picture whose two best classes are nearly level may fall either way with another order of additions.
    assert abs(int((answers.argmax(axis=1) == labels).sum()) - case.right) <= 1
