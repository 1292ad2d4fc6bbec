"""What pruning costs and gains: accuracy on real models, speed of aligned and unaligned widths, zeros that do not go.

    python benchmarks/pruning.py [--only NAME…]

Writes reports/published/pruning.json and .md with the command, versions and machine. Speed is the median of ratios of
rounds that visit every variant in turned order, one thread, batch 1, in one process; accuracy is paired, on
samples that took no part in pruning. Shapes with random weights (resnet50, mobilenet_v2) say nothing of accuracy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
from onnx import numpy_helper
from pruning_table import publish
from shapes import mobilenet_v2, resnet50

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
ROUNDS, SECONDS = 15, 0.15
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="*", help="models and shapes to run; the others stay as they were published")
    said = options.parse_args()
    into = ROOT / "reports" / "published" / "pruning.json"
    facts: dict[str, Any] = json.loads(into.read_text()) if into.exists() and said.only else {"real": {}, "shapes": {}}
    facts |= {
        "command": "python benchmarks/pruning.py",
        "machine": f"{_cpu()}, 1 of {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}",
        "versions": {name: metadata.version(name) for name in ("mlopt", "onnxruntime", "onnx", "numpy")},
        "multiple": _multiple(),
        "rounds": ROUNDS,
    }
    with tempfile.TemporaryDirectory(prefix="mlopt-bench-") as scratch:
        for name, shares in REAL.items():
            if said.only is None or name in said.only:
                facts["real"][name] = real(name, shares, facts["multiple"], Path(scratch))
                publish(facts, into)
                if name in TUNED:
                    tuned(name, facts["real"][name], Path(scratch))
                    publish(facts, into)
        for name, (build, gone) in SHAPES.items():
            if said.only is None or name in said.only:
                facts["shapes"][name] = shape(build(), gone, facts["multiple"], Path(scratch))
                publish(facts, into)
    print(into.with_suffix(".md").read_text())


def real(name: str, shares: tuple[float, ...], multiple: int, scratch: Path) -> dict[str, Any]:
    """Accuracy, work and speed of a trained model at each share."""
    from mlopt.artifact import ONNX, Artifact
    from mlopt.intervals import paired_difference
    from mlopt.samples.open import Asked, open_samples
    from mlopt.signature import signature_of
    from mlopt.steps.prune_channels import pruner

    folder = scratch / name
    folder.mkdir()
    samples, calibration = _model_and_samples(name, folder)
    split = open_samples(Asked(str(samples), calibration=calibration), signature_of(folder / "model.onnx"))
    labels = split.evaluation.labels
    assert labels is not None
    whole = _answers(folder / "model.onnx", split.evaluation) == labels
    found: dict[str, Any] = {"calibration": len(split.calibration), "evaluation": len(labels), "top1": whole.mean()}
    variants: dict[str, Path] = {"whole": folder / "model.onnx"}
    began = time.monotonic()
    with pruner(Artifact(ONNX, "", folder), split.calibration, multiple) as one:
        found["most"], found["shares"] = one.most, {}
        for share in shares:
            made = one.cut(share)
            path = variants[str(share)] = scratch / f"{name}-{share}.onnx"
            onnx.save(made.model, str(path))
            narrow = _answers(path, split.evaluation) == labels
            drop = paired_difference(int((whole & ~narrow).sum()), int((~whole & narrow).sum()), len(labels))
            found["shares"][str(share)] = {
                "gone": 1 - made.work_after / made.work_before,
                "top1": narrow.mean(),
                "drop": [drop.value, drop.low, drop.high],
                "seconds_until": time.monotonic() - began,
            }
    shape_of_input = next(iter(split.evaluation.feeds(batch=1)))
    for share, ratios in _speeds(variants, shape_of_input).items():
        found["shares"][share]["speedup"] = ratios
    return found


def tuned(name: str, found: dict[str, Any], scratch: Path) -> None:
    """The largest share once more, trained on CIFAR-10's training samples that lie beside the test samples."""
    from mlopt.artifact import ONNX, Artifact, digest_of
    from mlopt.intervals import paired_difference
    from mlopt.samples.open import Asked, open_samples
    from mlopt.signature import signature_of
    from mlopt.steps.fine_tune import FineTune

    share, began = str(max(REAL[name])), time.monotonic()
    signature = signature_of(scratch / name / "model.onnx")
    given = _cifar("train_5000.npz", scratch / "train.npz")
    split = open_samples(Asked(str(given), calibration=4999), signature)
    (scratch / "pruned").mkdir()
    (scratch / f"{name}-{share}.onnx").rename(scratch / "pruned" / "model.onnx")
    source, teacher = (Artifact(ONNX, digest_of(scratch / at), scratch / at) for at in ("pruned", name))
    (scratch / "tuned").mkdir()
    FineTune(split.calibration, teacher, epochs=TUNED[name]).run(source, scratch / "tuned")
    held = open_samples(Asked(str(scratch / f"{name}.npz"), calibration=found["calibration"]), signature).evaluation
    whole, narrow = (_answers(at / "model.onnx", held) == held.labels for at in (scratch / name, scratch / "tuned"))
    drop = paired_difference(int((whole & ~narrow).sum()), int((~whole & narrow).sum()), len(whole))
    found["shares"][f"{share}, {TUNED[name]} epochs"] = {
        **found["shares"][share],
        "top1": narrow.mean(),
        "drop": [drop.value, drop.low, drop.high],
        "seconds": time.monotonic() - began,
    }


def shape(model: onnx.ModelProto, gone: float, multiple: int, scratch: Path) -> dict[str, Any]:
    """Speed of a model with random weights, the same work gone from it with aligned widths, without, and as zeros."""
    from mlopt.prune.cells import products_of
    from mlopt.prune.channels import follow

    variants = {"whole": scratch / "whole.onnx"}
    onnx.save(model, str(variants["whole"]))
    channels = follow(model)
    full = sum(one.work(()) for one in products_of(channels))
    found: dict[str, Any] = {"work": full, "variants": {}}
    for label, step in (("aligned", multiple), ("unaligned", 1)):
        away, left = _narrowed(channels, step, gone)
        variants[label] = _saved(model, channels, away, scratch / f"{label}.onnx")
        found["variants"][label] = {"gone": 1 - left / full}
    variants["zeros"] = scratch / "zeros.onnx"
    onnx.save(_zeroed(model, 0.75), str(variants["zeros"]))
    found["variants"]["zeros"] = {"gone": 0.0}
    dims = [dim.dim_value or 1 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"image": np.random.default_rng(0).standard_normal(dims).astype(np.float32)}
    for label, ratios in _speeds(variants, feed).items():
        found["variants"][label]["speedup"] = ratios
    return found


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


def _speeds(variants: Mapping[str, Path], feed: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Ratios of the whole model's latency to each other's; a round visits all, in turned order."""
    import onnxruntime as ort

    sessions: dict[str, Callable[[], object]] = {}
    for name, path in variants.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        sessions[name] = lambda session=session: session.run(None, dict(feed))
        sessions[name]()
    names = list(sessions)
    ratios: dict[str, list[float]] = {name: [] for name in names[1:]}
    for number in range(ROUNDS):
        order = names[number % len(names) :] + names[: number % len(names)]
        taken = {name: _quickest(sessions[name]) for name in order}
        for name in ratios:
            ratios[name].append(taken[names[0]] / taken[name])
    return {
        name: {"median": statistics.median(seen), "low": sorted(seen)[1], "high": sorted(seen)[-2]}
        for name, seen in ratios.items()
    }


def _quickest(run: Callable[[], object]) -> float:
    """The median of the queries of a while."""
    seen, until = [], time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(seen) < 3:
        began = time.perf_counter()
        run()
        seen.append(time.perf_counter() - began)
    return statistics.median(seen)


def _model_and_samples(name: str, folder: Path) -> tuple[Path, int]:
    """`model.onnx` into the folder, its samples, and how many of them to calibrate on."""
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is not there")
    if name.startswith("resnet"):
        import torch

        sys.path.insert(0, str(ROOT / "tests" / "real"))
        import factories

        model, example = getattr(factories, f"{name}_cifar")()
        model.load_state_dict(torch.load(DATA / "models" / "torch" / f"{name}_cifar10.pth", weights_only=True))
        path = str(folder / "model.onnx")
        torch.onnx.export(model.eval(), example, path, dynamo=False, opset_version=17, dynamic_axes={"image": {0: "N"}},
                          input_names=["image"], output_names=["logits"])  # fmt: skip
        return _cifar("test_2000.npz", folder.parent / f"{name}.npz"), 500
    (folder / "model.onnx").write_bytes((DATA / "models" / "onnx" / f"{name}.onnx").read_bytes())
    return DATA / "nips17_imagenet", 128


def _cifar(file: str, into: Path) -> Path:
    held = np.load(DATA / "cifar10" / file)
    x = (held["x"].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    np.savez(into, x=np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y=held["y"])
    return into


def _answers(path: Path, samples: Any) -> np.ndarray:
    from mlopt.precision.noise import answers

    return answers(path, samples.feeds(batch=8))[0].argmax(axis=1)


REAL = {"squeezenet1_0": (0.1, 0.2), "resnet20": (0.1, 0.3), "resnet32": (0.1,), "mobilenetv1_x0_25": (0.1,)}
TUNED = {"resnet20": 4}  # passes over the training samples
SHAPES = {"resnet50": (resnet50, 0.75), "mobilenet_v2": (mobilenet_v2, 0.5)}


def _multiple() -> int:
    from mlopt.target import find_target

    return find_target("host").channel_multiple


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
