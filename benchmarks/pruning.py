"""What pruning costs and gains: accuracy on real models, speed of aligned and unaligned widths, zeros that do not go.

    python benchmarks/pruning.py [--only NAME…] [--store DIR]

Writes reports/published/pruning.json and .md with the command, versions and machine. Speed is the median of ratios of
rounds that visit every variant in turned order, one thread, batch 1, in one process; accuracy is paired, on
samples that took no part in pruning. Shapes with random weights (resnet50, mobilenet_v2) say nothing of accuracy.
With a store, what was made is kept there, and fine-tuning goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import numpy_helper
from pruning_data import cifar, model_and_samples
from pruning_runs import ROUNDS, outputs, speeds
from pruning_table import publish
from shapes import mobilenet_v2, resnet50

from mlopt.artifact import Artifact
from mlopt.step import Going, Step
from mlopt.store import Store

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "pruning.json"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="*", help="models and shapes to run; the others stay as they were published")
    options.add_argument("--store", type=Path, help="folder to keep what is made in")
    said = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlopt-bench-") as folder:
        scratch = Path(folder)
        for name, shares in REAL.items():
            if said.only is None or name in said.only:
                _publish("real", name, real(name, shares, _multiple(), scratch))
        for name, share, epochs, labels in TUNED:
            key = f"{name}-{share}-{'labels' if labels else 'answers'}"
            if said.only is None or key in said.only:
                store = Store(said.store or scratch / "store", listener=_heard)
                _publish("tuned", key, tuned(name, share, epochs, store, scratch / key, labels=labels))
        for name, (build, gone) in SHAPES.items():
            if said.only is None or name in said.only:
                _publish("shapes", name, shape(build(), gone, _multiple(), scratch / name))
    print(PUBLISHED.with_suffix(".md").read_text())


def _publish(section: str, name: str, found: dict[str, Any]) -> None:
    """Into what is published already, which another run may have changed meanwhile."""
    facts: dict[str, Any] = json.loads(PUBLISHED.read_text()) if PUBLISHED.exists() else {}
    facts.setdefault(section, {})[name] = found
    facts |= {
        "command": "python benchmarks/pruning.py",
        "machine": f"{_cpu()}, 1 of {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "openvino", "torch", "numpy")},
        "multiple": _multiple(),
        "rounds": ROUNDS,
    }
    publish(facts, PUBLISHED)


def real(name: str, shares: tuple[float, ...], multiple: int, scratch: Path) -> dict[str, Any]:
    """Accuracy, work and speed of a trained model at each share."""
    from mlopt.artifact import ONNX, Artifact
    from mlopt.intervals import paired_difference
    from mlopt.samples.open import Asked, open_samples
    from mlopt.signature import signature_of
    from mlopt.steps.prune_channels import pruner

    folder = scratch / name
    folder.mkdir()
    samples, calibration = model_and_samples(name, folder)
    split = open_samples(Asked(str(samples), calibration=calibration), signature_of(folder / "model.onnx"))
    labels = split.evaluation.labels
    assert labels is not None
    whole = _answers(folder / "model.onnx", split.evaluation) == labels
    found: dict[str, Any] = {"calibration": len(split.calibration), "evaluation": len(labels), "top1": whole.mean()}
    variants = {"whole": (folder / "model.onnx", "onnxruntime")}
    began = time.monotonic()
    with pruner(Artifact(ONNX, "", folder), split.calibration, multiple) as one:
        found["most"], found["shares"] = one.most, {}
        for share in shares:
            made = one.cut(share)
            path = scratch / f"{name}-{share}.onnx"
            onnx.save(made.model, str(path))
            variants[str(share)] = (path, "onnxruntime")
            narrow = _answers(path, split.evaluation) == labels
            drop = paired_difference(int((whole & ~narrow).sum()), int((~whole & narrow).sum()), len(labels))
            found["shares"][str(share)] = {
                "gone": 1 - made.work_after / made.work_before,
                "top1": narrow.mean(),
                "drop": [drop.value, drop.low, drop.high],
                "seconds_until": time.monotonic() - began,
            }
    shape_of_input = next(iter(split.evaluation.feeds(batch=1)))
    for share, ratios in speeds(variants, shape_of_input).items():
        found["shares"][share]["speedup"] = ratios
    return found


def tuned(name: str, share: float, epochs: int, store: Store, scratch: Path, *, labels: bool) -> dict[str, Any]:
    """A share pruned, trained on CIFAR-10's training samples, and quantized; beside it the whole model quantized."""
    from mlopt.artifact import ONNX, Artifact, digest_of
    from mlopt.intervals import paired_difference
    from mlopt.samples.open import Asked, open_samples
    from mlopt.signature import signature_of
    from mlopt.steps.fine_tune import FineTune
    from mlopt.steps.prune_channels import PruneChannels

    folder = scratch / "whole"
    folder.mkdir(parents=True)
    given, count = model_and_samples(name, folder)
    signature = signature_of(folder / "model.onnx")
    split = open_samples(Asked(str(given), calibration=count), signature)
    train = cifar("train_5000.npz", scratch / "train.npz", labels=labels)
    training = open_samples(Asked(str(train), calibration=4999), signature).calibration
    whole = Artifact(ONNX, digest_of(folder), folder)
    began = time.monotonic()
    pruned = store.run(PruneChannels(split.calibration, share=share, multiple=_multiple()), whole)
    narrow = store.run(FineTune(training, whole, epochs=epochs), pruned)
    variants = {"whole": (whole.main, "onnxruntime"), "fine-tuned": (narrow.main, "onnxruntime")}
    for label, source in (("whole", whole), ("fine-tuned", narrow)):
        for recipe in RECIPES:
            variants[f"{label}, {recipe}"] = _made(recipe, source, split.calibration, store)
    right = {label: _answers(path, split.evaluation, runtime) == split.evaluation.labels
             for label, (path, runtime) in variants.items()}  # fmt: skip
    found: dict[str, Any] = {
        "training": len(training),
        "labels": labels,
        "epochs": epochs,
        "calibration": count,
        "variants": {},
    }
    found |= {"evaluation": len(right["whole"]), "top1": right["whole"].mean(), "seconds": time.monotonic() - began}
    found["gone"] = 1 - _work(narrow.main) / _work(whole.main)
    for label, ratios in speeds(variants, next(iter(split.evaluation.feeds(batch=1)))).items():
        lost, won = (right["whole"] & ~right[label]).sum(), (~right["whole"] & right[label]).sum()
        drop = paired_difference(int(lost), int(won), len(right["whole"]))
        found["variants"][label] = {
            "top1": right[label].mean(),
            "drop": [drop.value, drop.low, drop.high],
            "speedup": ratios,
        }
    return found


def shape(model: onnx.ModelProto, gone: float, multiple: int, scratch: Path) -> dict[str, Any]:
    """Speed of a model with random weights: the same work gone from it with aligned widths, without, and as zeros; and
    whole and narrow in int8."""
    from mlopt.artifact import ONNX, Artifact, digest_of
    from mlopt.prune.cells import products_of
    from mlopt.prune.channels import follow
    from mlopt.samples.generated import GeneratedSamples
    from mlopt.signature import signature_of

    paths = {label: scratch / label / "model.onnx" for label in ("whole", "aligned", "unaligned", "zeros")}
    for path in paths.values():
        path.parent.mkdir(parents=True)
    onnx.save(model, str(paths["whole"]))
    channels = follow(model)
    full = sum(one.work(()) for one in products_of(channels))
    found: dict[str, Any] = {"work": full, "variants": {}}
    for label, step in (("aligned", multiple), ("unaligned", 1)):
        away, left = _narrowed(channels, step, gone)
        _saved(model, channels, away, paths[label])
        found["variants"][label] = {"gone": 1 - left / full}
    onnx.save(_zeroed(model, 0.75), str(paths["zeros"]))
    found["variants"]["zeros"] = {"gone": 0.0}
    variants = {label: (path, "onnxruntime") for label, path in paths.items()}
    samples = GeneratedSamples(signature_of(paths["whole"]), 8, 0)
    store = Store(scratch / "store")
    for label in ("whole", "aligned"):
        source = Artifact(ONNX, digest_of(scratch / label), scratch / label)
        exact = outputs(paths[label], samples)
        for recipe in RECIPES:
            path, runtime = variants[f"{label}, {recipe}"] = _made(recipe, source, samples, store)
            error = exact - outputs(path, samples, runtime)
            found["variants"][f"{label}, {recipe}"] = {
                "gone": found["variants"].get(label, {"gone": 0.0})["gone"],
                "sqnr": float(10 * np.log10(np.square(exact).sum() / np.square(error).sum())),
            }
    for label, ratios in speeds(variants, next(iter(samples.feeds(batch=1)))).items():
        found["variants"][label]["speedup"] = ratios
    return found


def _made(recipe: str, source: Artifact, samples: Any, store: Store) -> tuple[Path, str]:
    """The model by the steps of a recipe, for this machine, and the runtime that it is for."""
    from mlopt.intervals import Allowed
    from mlopt.plan import plan
    from mlopt.recipe import find_recipe
    from mlopt.signature import signature_of
    from mlopt.target import find_target

    planned = plan(
        signature_of(source.main), find_target("host"), [find_recipe(recipe)], samples, samples, Allowed(len(samples))
    )
    if planned.left_out:
        raise SystemExit(f"{recipe}: {planned.left_out[0].reason}")
    for step in planned.candidates[1].steps:
        source = store.run(step, source)
    return source.main, planned.candidates[1].runtime


def _work(path: Path) -> int:
    from mlopt.prune.cells import products_of
    from mlopt.prune.channels import follow

    model = onnx.shape_inference.infer_shapes(onnx.load(str(path)))
    return sum(one.work(()) for one in products_of(follow(model)))


def _heard(step: Step, going: Going) -> None:
    if going.done % 1 == 0:
        print(f"{step.name} {going.unit} {going.done:g} of {going.total}: {going.detail}", file=sys.stderr, flush=True)


def _narrowed(channels: Any, multiple: int, gone: float) -> tuple[set[int], int]:
    """Every cell narrowed by the same part, so that this share of the work is gone or a little more."""
    from mlopt.prune.cells import cells_of, products_of

    cells, products = cells_of(channels, multiple), products_of(channels)
    full = sum(one.work(()) for one in products)
    for part in np.linspace(0, 1, 101):
        away: set[int] = set()
        for cell in cells:
            wanted = min(cell.kept, key=lambda kept: abs(kept - len(cell.roots) * (1 - part)))
            away.update(cell.roots[wanted:])
        left = sum(one.work(away) for one in products)
        if left <= full * (1 - gone):
            return away, left
    raise SystemExit(f"{gone:.0%} is out of reach")


def _saved(model: onnx.ModelProto, channels: Any, away: set[int], path: Path) -> Path:
    from mlopt.prune.cut import cut

    onnx.save(cut(model, channels, away, {}), str(path))
    return path


def _zeroed(model: onnx.ModelProto, share: float) -> onnx.ModelProto:
    """The same graph with this share of each convolution's weights set to zero, the smallest."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        values = numpy_helper.to_array(tensor).copy()
        if values.ndim == 4:
            values[np.abs(values) < np.quantile(np.abs(values), share)] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return copy


def _answers(path: Path, samples: Any, runtime: str = "onnxruntime") -> np.ndarray:
    return outputs(path, samples, runtime).argmax(axis=1)


REAL = {"squeezenet1_0": (0.1, 0.2), "resnet20": (0.1, 0.3), "resnet32": (0.1,), "mobilenetv1_x0_25": (0.1,)}
# Share, passes over the training samples, and whether their labels are used.
TUNED = (("resnet20", 0.2, 12, False), ("resnet20", 0.2, 8, True), ("resnet32", 0.2, 8, True))
RECIPES = ("int8-static", "openvino-int8", "litert-int8")
SHAPES = {"resnet50": (resnet50, 0.75), "mobilenet_v2": (mobilenet_v2, 0.5)}


def _multiple() -> int:
    from mlopt.target import find_target

    return find_target("host").channel_multiple


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
