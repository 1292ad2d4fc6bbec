"""One step at work on one small net: its source, its samples, what it makes and how that answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from nets import save

from mlopt.artifact import ONNX, Artifact, digest_of
from mlopt.runners.onnxruntime import OnnxRuntimeRunner
from mlopt.samples.generated import GeneratedSamples
from mlopt.samples.open import Asked, open_samples
from mlopt.samples.samples import Samples
from mlopt.signature import signature_of
from mlopt.step import Step


def source(folder: Path, model: onnx.ModelProto) -> Artifact:
    save(model, folder / "model.onnx")
    return Artifact(ONNX, digest_of(folder), folder)


def calibration(folder: Path, model: onnx.ModelProto, *, broken: bool = False, of: np.ndarray | None = None) -> Samples:
    """Eight noisy pictures, or all but one of those given."""
    if of is not None:
        np.savez(folder / "samples.npz", x=of)
        asked = Asked(str(folder / "samples.npz"), calibration=len(of) - 1)
        return open_samples(asked, signature_of(model)).calibration
    image = model.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value for dim in image][1:]
    x = np.random.default_rng(0).standard_normal((16, *shape)).astype(np.float32)
    if broken:
        x[:] = np.inf
        x[:, 0, 0, 0] = np.arange(16)
    np.savez(folder / "samples.npz", x=x)
    return open_samples(Asked(str(folder / "samples.npz"), calibration=8), signature_of(model)).calibration


def probe(model: onnx.ModelProto) -> GeneratedSamples:
    return GeneratedSamples(signature_of(model), 4, 0)


def run(step: Step, artifact: Artifact, into: Path, *, files: tuple[str, ...] = ("model.onnx",)) -> Artifact:
    into.mkdir()
    step.run(artifact, into)
    assert sorted(path.name for path in into.iterdir()) == sorted(files), "nothing but the model is left"
    return Artifact(ONNX, digest_of(into), into)


def answers(artifact: Artifact, feed: dict[str, np.ndarray]) -> np.ndarray:
    with OnnxRuntimeRunner(artifact.main, threads=1) as runner:
        return runner.infer(feed)[0]


def sqnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10((one**2).sum() / ((one - other) ** 2).sum()))


def operators_that_run(model: Path, into: Path) -> list[str]:
    """The operators that ONNX Runtime makes of a model, in order."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(into)
    ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(str(into)).graph.node]
