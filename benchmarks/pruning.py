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
    }
    with tempfile.TemporaryDirectory(prefix="mlopt-bench-") as scratch:
        for name, shares in REAL.items():
            if said.only is None or name in said.only:
                facts["real"][name] = real(name, shares, facts["multiple"], Path(scratch))
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
        held = np.load(DATA / "cifar10" / "test_2000.npz")
        x = (held["x"].astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        np.savez(folder.parent / f"{name}.npz", x=np.ascontiguousarray(x.transpose(0, 3, 1, 2)), y=held["y"])
        return folder.parent / f"{name}.npz", 500
    (folder / "model.onnx").write_bytes((DATA / "models" / "onnx" / f"{name}.onnx").read_bytes())
    return DATA / "nips17_imagenet", 128


def _answers(path: Path, samples: Any) -> np.ndarray:
    from mlopt.precision.noise import answers

    return answers(path, samples.feeds(batch=8))[0].argmax(axis=1)


class Builder:
    """A graph of convolutions with seeded weights; batch normalisation is folded already."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def conv(self, h: str, read: int, made: int, kernel: int, *, stride: int = 1, group: int = 1) -> str:
        name = f"w{len(self.weights)}"
        scale = (2 / (read // group * kernel**2)) ** 0.5
        w = self._random.standard_normal((made, read // group, kernel, kernel)) * scale
        self.weights += [
            numpy_helper.from_array(w.astype(np.float32), name),
            numpy_helper.from_array(np.zeros(made, np.float32), f"{name}b"),
        ]
        return self.add(
            *("Conv", h, name, f"{name}b"), strides=[stride] * 2, pads=[kernel // 2] * 4, group=group,
        )  # fmt: skip

    def clip(self, h: str) -> str:
        if not any(tensor.name == "six" for tensor in self.weights):
            self.weights += [numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "zero"), (6, "six"))]
        return self.add("Clip", h, "zero", "six")

    def head(self, h: str, read: int) -> onnx.ModelProto:
        h = self.add("Flatten", self.add("GlobalAveragePool", h))
        w = self._random.standard_normal((read, 1000)).astype(np.float32) * read**-0.5
        self.weights.append(numpy_helper.from_array(w, "head"))
        h = self.add("Gemm", h, "head")
        info = onnx.helper.make_tensor_value_info
        graph = onnx.helper.make_graph(
            self.nodes, "net", [info("image", 1, [1, 3, 224, 224])], [info(h, 1, [1, 1000])], self.weights
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def resnet50() -> onnx.ModelProto:
    net = Builder()
    h = net.add("Relu", net.conv("image", 3, 64, 7, stride=2))
    h = net.add("MaxPool", h, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    read = 64
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for number in range(count):
            stride = 2 if number == 0 and stage else 1
            short = h if number else net.conv(h, read, 4 * width, 1, stride=stride)
            h = net.add("Relu", net.conv(h, read, width, 1))
            h = net.add("Relu", net.conv(h, width, width, 3, stride=stride))
            h = net.add("Relu", net.add("Add", net.conv(h, width, 4 * width, 1), short))
            read = 4 * width
    return net.head(h, read)


def mobilenet_v2() -> onnx.ModelProto:
    net = Builder()
    h, read = net.clip(net.conv("image", 3, 32, 3, stride=2)), 32
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expand, made, count, first in stages:
        for number in range(count):
            stride, hidden = first if number == 0 else 1, read * expand
            inner = h if expand == 1 else net.clip(net.conv(h, read, hidden, 1))
            inner = net.clip(net.conv(inner, hidden, hidden, 3, stride=stride, group=hidden))
            inner = net.conv(inner, hidden, made, 1)
            h = net.add("Add", h, inner) if stride == 1 and read == made else inner
            read = made
    return net.head(net.clip(net.conv(h, read, 1280, 1)), 1280)


REAL = {"squeezenet1_0": (0.1, 0.2), "resnet20": (0.1,), "resnet32": (0.1,), "mobilenetv1_x0_25": (0.1,)}
SHAPES = {"resnet50": (resnet50, 0.75), "mobilenet_v2": (mobilenet_v2, 0.5)}


def publish(facts: dict[str, Any], into: Path) -> None:
    into.write_text(json.dumps(facts, indent=1, default=float) + "\n")
    rows = [
        "# Pruning",
        "",
        f"`{facts['command']}`",
        "",
        f"Machine: {facts['machine']}. "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". Widths in multiples of {facts['multiple']}. Latency at batch 1, one thread, ONNX Runtime: the median of "
        f"{ROUNDS} interleaved rounds' ratios to the whole model, with the second lowest and second highest.",
        "",
        "## Trained models, fitted on calibration samples alone",
        "",
        "| model (calibration, evaluation samples) | work gone | top-1 before | top-1 lost, points (95 %) | speed-up |",
        "|---|---|---|---|---|",
        *(
            f"| {name} ({one['calibration']}, {one['evaluation']}) | {at['gone']:.1%} | {one['top1']:.1%} | "
            f"{_points(at['drop'])} | {_ratio(at['speedup'])} |"
            for name, one in facts["real"].items()
            for at in one["shares"].values()
            if "speedup" in at
        ),
        "",
        "## Shapes with random weights: latency alone",
        "",
        "| shape | variant | work gone | speed-up |",
        "|---|---|---|---|",
        *(
            f"| {name} | {LABELS[label]} | {at['gone']:.1%} | {_ratio(at['speedup'])} |"
            for name, one in facts["shapes"].items()
            for label, at in one["variants"].items()
        ),
        "",
    ]
    into.with_suffix(".md").write_text("\n".join(rows))


LABELS = {
    "aligned": "widths in multiples",
    "unaligned": "any width",
    "zeros": "75 % of the weights zero, no channel gone",
}


def _points(drop: list[float]) -> str:
    value, low, high = (100 * one for one in drop)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _ratio(seen: Mapping[str, float]) -> str:
    return f"{seen['median']:.2f} ({seen['low']:.2f} to {seen['high']:.2f})"


def _multiple() -> int:
    from mlopt.target import find_target

    return find_target("host").channel_multiple


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
