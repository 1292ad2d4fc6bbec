"""Every real model of the data folder: opened, exported, checked against its own framework. Prints the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlopt.artifact import Format
from mlopt.check.parity import check_parity
from mlopt.signature import InputSpec, signature
from mlopt.source import export_step, open_model
from mlopt.step import installed
from mlopt.store import Store

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="the real models are not beside this checkout"),
]


@dataclass(frozen=True)
class Case:
    """A model, what it must be taken for, and what it must become."""

    path: str
    format: str
    inputs: dict[str, tuple[int | str, ...]]
    factory: str | None = None
    given: dict[str, InputSpec] = field(default_factory=dict)
    closeness: float = 0.99999


IMAGENET_FIRST = ("batch", 3, 224, 224)
CASES = [
    Case("models/onnx/squeezenet1_0.onnx", "onnx", {"input": ("N", 3, 224, 224)}),
    Case("models/onnx/mobilenetv1_x0_25.onnx", "onnx", {"input": ("N", 3, 224, 224)}),
    Case(
        "silero_vad/silero_vad_16k_op15.onnx",
        "onnx",
        {"input": ("batch", "sequence"), "state": (2, "batch", 128), "sr": ()},
        given={"input": InputSpec(shape=("batch", 576))},
    ),
    Case("fastestdet/FastestDet.onnx", "onnx", {"input.1": ("batch", 3, 352, 352)}),
    Case("models/torch/mobilenetv1_x0_25.pth", "torch-weights", {"image": IMAGENET_FIRST}, "mobilenet_v1_025"),
    Case("models/torch/mobilenet_v2_rot180.pth", "torch-weights", {"image": IMAGENET_FIRST}, "mobilenet_v2"),
    Case("models/torch/squeezenet1_0.pth", "torch-weights", {"image": IMAGENET_FIRST}, "squeezenet1_0"),
    Case("models/torch/resnet20_cifar10.pth", "torch-weights", {"image": ("batch", 3, 32, 32)}, "resnet20_cifar"),
    Case("models/torch/resnet32_cifar10.pth", "torch-weights", {"image": ("batch", 3, 32, 32)}, "resnet32_cifar"),
    Case("lm/stories260K.pth", "torch-weights", {"tokens": ("batch", "sequence")}, "stories260k"),
    Case("models/keras/mobilenet_v1_025_224.keras", "keras", {"input_layer": ("batch", 224, 224, 3)}),
    Case("mlperf_tiny/pretrainedResnet.h5", "keras", {"input_1": ("batch", 32, 32, 3)}),
    Case("mlperf_tiny/vww_96.h5", "keras", {"input_1": ("batch", 96, 96, 3)}),
    Case("mlperf_tiny/ad01.h5", "keras", {"input_1": ("batch", 640)}),
    Case("mlperf_tiny/kws_ref_model", "tensorflow-savedmodel", {"input_1": ("batch", 49, 10, 1)}),
    Case("models/tflite/mobilenet_v1_0.25_224_float.tflite", "tflite", {"input": ("batch", 224, 224, 3)}),
    Case("mlperf_tiny/pretrainedResnet.tflite", "tflite", {"input_1": ("batch", 32, 32, 3)}),
    Case("mlperf_tiny/vww_96_float.tflite", "tflite", {"input_1": ("batch", 96, 96, 3)}),
    Case("mlperf_tiny/ad01_fp32.tflite", "tflite", {"input_1": ("batch", 640)}),
    # Its weights are 8-bit: TFLite's own kernels round activations too, the export does not.
    Case("mlperf_tiny/kws_ref_model_float32.tflite", "tflite", {"input_1": ("batch", 49, 10, 1)}, closeness=0.999),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    rows: list[str] = []
    yield rows
    print(f"\n{'model':44} {'format':22} {'export s':>8} {'check s':>8} {'max abs':>9} {'max rel':>9}  batch")
    print("\n".join(rows))


def _marked(case: Case) -> object:
    marks = []
    if case.format.startswith("torch"):
        marks = [pytest.mark.torch, pytest.mark.slow]
    elif case.format != "onnx":
        marks = [pytest.mark.tensorflow, pytest.mark.slow]
    return pytest.param(case, id=case.path, marks=marks)


@pytest.mark.parametrize("case", [_marked(case) for case in CASES])
def test_exports_with_a_dynamic_batch_and_agrees_with_its_source(
    case: Case, tmp_path: Path, table: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"torch-weights": "torch", "onnx": "onnx"}.get(case.format, "tensorflow")
    if installed(needed) is None:
        pytest.skip(f"{needed} is not installed")
    monkeypatch.chdir(Path(__file__).parent)
    factory = f"factories:{case.factory}" if case.factory else None
    store = Store(tmp_path)
    began = time.monotonic()
    source = open_model(DATA / case.path, store=store, factory=factory)
    exported = store.run(export_step(source, opset=18, factory=factory, inputs=case.given), source)
    done = time.monotonic()
    parity = check_parity(source, exported, store=store, factory=factory, inputs=case.given)
    checked = time.monotonic()

    found = signature(exported)
    worst = max(parity, key=lambda one: one.max_absolute)
    relative = max(one.max_relative for one in parity)
    table.append(
        f"{case.path:44} {source.format:22} {done - began:8.1f} {checked - done:8.1f} {worst.max_absolute:9.2g} "
        f"{relative:9.2g}  {'dynamic' if found.batch else 'fixed'}"
    )
    assert source.format == Format(case.format)
    assert {tensor.name: tensor.shape for tensor in found.inputs} == case.inputs
    assert {one.batch for one in parity} == {1, 3}
    assert 13 <= found.opset <= 18
    assert all(one.max_relative <= one.tolerance and one.cosine > case.closeness for one in parity)
    assert [file.name for file in sorted(exported.path.iterdir())] == ["model.onnx"]
