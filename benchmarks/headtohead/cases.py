"""The models that everybody gets: each as one ONNX file, with the same samples for calibration and for evaluation.

OUT/<case>/model.onnx        what every tool starts from
OUT/<case>/samples.npz       all samples, ready to be fed; mlopt is given this, and splits it by content
OUT/<case>/calibration.npz   mlopt's own split of it, for the peers; labels in `y`
OUT/<case>/evaluation.npz    shares no sample with calibration
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headtohead.imbalanced import imbalance
from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.project import PreprocessSpec
from mlopt.samples.open import Asked, Split, open_samples
from mlopt.signature import signature_of

if TYPE_CHECKING:
    import numpy as np

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = ROOT.parent / "shared" / "data"
CALIBRATION: Final = 128
_IMAGENET: Final = ("nips17_imagenet", "imagenet500")
CIFAR: Final = ("cifar10/test_2000.npz",)
_TORCHVISION: Final = PreprocessSpec(preset="torchvision", resize=256, crop=(224, 224))
_OPSET: Final = 18


@dataclass(frozen=True, slots=True)
class Case:
    """`path` is a trained model in the data folder, or empty: then `shape` names one of `shapes.py`, with random
    weights, which says something of speed and of quantisation noise, and nothing of accuracy. `keras` models are
    there for tools that convert from it."""

    name: str
    path: str = ""
    samples: tuple[str, ...] = ()
    preprocess: PreprocessSpec | None = None
    factory: str | None = None
    flatters: str = ""
    imbalanced: bool = False
    shape: str = ""
    attention: bool = False

    @property
    def trained(self) -> bool:
        return bool(self.path)

    @property
    def keras(self) -> Path | None:
        return DATA / self.path if self.path.endswith((".keras", ".h5")) else None


_GRID: Final = "its weights sit on a quantised grid already: it flatters every quantiser"
CASES: Final[Mapping[str, Case]] = {
    case.name: case
    for case in (
        Case("mobilenetv1_x0_25", "models/onnx/mobilenetv1_x0_25.onnx", _IMAGENET, _TORCHVISION),
        Case("resnet20", "models/torch/resnet20_cifar10.pth", CIFAR, PreprocessSpec(preset="torchvision"),
             "resnet20_cifar"),
        Case("resnet8", "mlperf_tiny/pretrainedResnet.h5", CIFAR, PreprocessSpec(preset="raw")),
        Case("mobilenetv1_imbalanced", "models/onnx/mobilenetv1_x0_25.onnx", _IMAGENET, _TORCHVISION, imbalanced=True),
        Case("squeezenet1_0", "models/onnx/squeezenet1_0.onnx", _IMAGENET, _TORCHVISION, flatters=_GRID),
        Case("resnet32", "models/torch/resnet32_cifar10.pth", CIFAR, PreprocessSpec(preset="torchvision"),
             "resnet32_cifar"),
        Case("mobilenetv1_keras", "models/keras/mobilenet_v1_025_224.keras", _IMAGENET,
             PreprocessSpec(preset="keras-tf", resize=256, crop=(224, 224))),
        Case("mobilenet_v2_rot180", "models/torch/mobilenet_v2_rot180.pth", _IMAGENET,
             replace(_TORCHVISION, rotate=180), "mobilenet_v2", flatters=_GRID),
        Case("resnet50-shape", shape="resnet50"),
        Case("mobilenet_v2-shape", shape="mobilenet_v2"),
        Case("mobilenet_v3_large-shape", shape="mobilenet_v3_large"),
        Case("efficientnet_b0-shape", shape="efficientnet_b0"),
        Case("vit_small-shape", shape="vit_small", attention=True),
        Case("deit_tiny-shape", shape="deit_tiny", attention=True),
        Case("bert_base-shape", shape="bert_base", attention=True),
    )
}  # fmt: skip


def prepare(case: Case, folder: Path) -> str:
    """Write the case's files below `folder`, once; the empty string, or why it cannot be had here."""
    if (folder / "ready.json").is_file():
        return ""
    wanted = [DATA / case.path, *(DATA / name for name in case.samples)] if case.trained else []
    if absent := [path for path in wanted if not path.exists()]:
        return f"{absent[0].relative_to(DATA)} is not in ../shared/data"
    folder.mkdir(parents=True, exist_ok=True)
    if case.trained:
        _export(case, folder / "model.onnx")
        samples = _trained_samples(case, folder / "model.onnx")
    else:
        from headtohead.shapes import export

        samples = export(case.shape, folder / "model.onnx")
    _save(folder / "samples.npz", samples)
    split = split_of(folder)
    for name in ("calibration", "evaluation"):
        part = getattr(split, name)
        _save(folder / f"{name}.npz", {key: value[list(part.indices)] for key, value in samples.items()})
    facts = {"calibration": len(split.calibration), "evaluation": len(split.evaluation)}
    (folder / "ready.json").write_text(json.dumps(facts))
    return ""


def exported(folder: Path) -> Artifact:
    """The model of a prepared case, in a folder that holds nothing else."""
    source = folder / "source"
    if not source.is_dir():
        source.mkdir()
        shutil.copyfile(folder / "model.onnx", source / "model.onnx")
    return Artifact(ONNX, digest_of(source), source)


def split_of(folder: Path) -> Split:
    """What `mlopt compile --samples samples.npz --calibration N` splits, for whoever evaluates here."""
    import numpy as np

    with np.load(folder / "samples.npz") as arrays:
        count = min(CALIBRATION, len(arrays[arrays.files[0]]) // 2)
    return open_samples(Asked(str(folder / "samples.npz"), calibration=count), signature_of(folder / "model.onnx"))


def _export(case: Case, into: Path) -> None:
    from mlopt.source import export_step, open_model
    from mlopt.store import Store

    if case.imbalanced:
        imbalance(DATA / case.path, into)
        return
    if case.path.endswith(".onnx"):
        into.write_bytes((DATA / case.path).read_bytes())
        return
    root = ROOT / "tests" / "real"  # the graphs that the weights belong to
    factory = f"factories:{case.factory}" if case.factory else None
    store = Store(into.with_name("export"))
    source = open_model(DATA / case.path, store=store, factory=factory, root=root)
    exported = store.run(export_step(source, opset=_OPSET, factory=factory, root=root), source)
    into.write_bytes(exported.main.read_bytes())


def _trained_samples(case: Case, model: Path) -> dict[str, np.ndarray]:
    import numpy as np

    signature = signature_of(model)
    name = signature.inputs[0].name
    images, labels = [], []
    for where in case.samples:
        source = open_samples(Asked(str(DATA / where), case.preprocess), signature).source
        images += [source.load(index)[name] for index in range(len(source))]
        labels += [source.label(index) for index in range(len(source))]
    return {name: np.stack(images), "y": np.array(labels)}


def _save(path: Path, arrays: Mapping[str, Any]) -> None:
    import numpy as np

    scratch = path.with_suffix(".part.npz")
    np.savez(scratch, **arrays)
    os.replace(scratch, path)
