"""int8 by nvidia-modelopt, in a Python of its own: what becomes of its model, its version and its failures.

A stand-in that takes modelopt's arguments shows what does not need modelopt; MLOPT_MODELOPT_PYTHON names the real one.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import other_pythons
import pytest
from nets import conv_net, matmul_net
from onnx import numpy_helper
from other_pythons import QUANTIZES, VARIABLE
from trials import answers, calibration, run, source, sqnr

from mlopt.convert.process import Limits
from mlopt.errors import ExportFailed, MissingDependency, MloptError, SamplesInvalid, UnsupportedModel
from mlopt.onnx_file import notes_in
from mlopt.step import Step
from mlopt.steps.pack_tensorrt_build import PackTensorrtBuild
from mlopt.steps.quantize_modelopt import QuantizeModelopt
from mlopt.store import Store

real = pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} names no Python with nvidia-modelopt")


def feed() -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(7).standard_normal((8, 3, 32, 32)).astype(np.float32)}


def test_what_it_makes_is_kept_with_what_it_says_and_its_noise_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, str(other_pythons.with_modelopt(tmp_path / "other")))
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    int8 = run(QuantizeModelopt(some), base, tmp_path / "int8")
    assert sqnr(answers(base, feed()), answers(int8, feed())) > 15
    assert notes_in(int8.main) == (
        "int8 by nvidia-modelopt 9.9, ranges by its entropy: 3 of 3 convolutions and products",
    )
    assert capfd.readouterr() == ("", "")


def test_another_version_there_makes_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    monkeypatch.setenv(VARIABLE, str(other_pythons.with_modelopt(other, version="9.9")))
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    heard: list[str] = []
    store = Store(tmp_path / "store", observer=lambda step, state, seconds: heard.append(state))
    store.run(QuantizeModelopt(some, "max"), base)
    store.run(QuantizeModelopt(some, "max"), base)
    assert heard == ["started", "done", "cached"]
    other_pythons.say_version(other, "9.10")
    made = store.run(QuantizeModelopt(some, "max"), base)
    assert heard[3:] == ["started", "done"]
    assert made.lineage[-1].tools["nvidia-modelopt"] == "9.10"
    assert "9.10" in notes_in(made.main)[0]


HALF = 'open(asked["output_path"], "wb").write(b"half a model"); import os, signal, time; '


@pytest.mark.parametrize(
    ("does", "kind", "words"),
    [
        ('raise KeyError("conv1\\nand a page more")', UnsupportedModel, "9.9 cannot quantize this model: KeyError"),
        (HALF + 'raise RuntimeError("no")', UnsupportedModel, "RuntimeError: no"),
        (HALF + "os._exit(3)", ExportFailed, "modelopt converter ended with exit code 3"),
        (HALF + "os.kill(os.getpid(), signal.SIGSEGV)", ExportFailed, "was killed by SIGSEGV"),
        (HALF + "time.sleep(60)", ExportFailed, "was stopped after 2 s"),
        (HALF, UnsupportedModel, "9.9 cannot handle this model"),
        ("pass", UnsupportedModel, "9.9 wrote no model"),
        ("import shutil; shutil.copy(asked['onnx_path'], asked['output_path'])", UnsupportedModel, "leaves every"),
    ],
)
def test_each_failure_is_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, kind: type[MloptError], words: str
) -> None:
    body = f"def quantize(**asked):\n    {does}\n"
    monkeypatch.setenv(VARIABLE, str(other_pythons.with_modelopt(tmp_path / "other", body)))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    step: Step = QuantizeModelopt(some, limits=Limits(seconds=2 if "sleep" in does else 60))
    with pytest.raises(kind) as raised:
        Store(tmp_path / "store").run(step, base)
    assert words in raised.value.what
    assert "\n" not in raised.value.what
    assert not list(scratch.iterdir())
    assert not list((tmp_path / "store" / "scratch").iterdir())
    assert not (tmp_path / "store" / "results").exists()


def test_a_modelopt_without_what_it_imports_says_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = other_pythons.with_modelopt(tmp_path / "other", "import no_such_thing")
    monkeypatch.setenv(VARIABLE, str(python))
    model = conv_net()
    with pytest.raises(MissingDependency) as raised:
        QuantizeModelopt(calibration(tmp_path, model)).run(source(tmp_path / "m", model), tmp_path)
    assert "No module named 'no_such_thing'" in raised.value.what
    assert raised.value.next == f"{python} -m pip install 'nvidia-modelopt[onnx]'"


INFINITE = """
    import numpy, onnx
    model = onnx.load(output_path)
    scale = next(one for one in model.graph.initializer if one.name == "image_scale")
    scale.CopyFrom(onnx.numpy_helper.from_array(numpy.float32("inf"), "image_scale"))
    onnx.save(model, output_path)
"""


def test_samples_that_lead_to_infinity_are_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(other_pythons.with_modelopt(tmp_path / "other", QUANTIZES + INFINITE)))
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    with pytest.raises(SamplesInvalid, match="NaN or infinity: image_scale is no number") as raised:
        QuantizeModelopt(some).run(base, tmp_path)
    assert raised.value.where == some.source.where


def test_a_calibrator_that_it_does_not_have(tmp_path: Path) -> None:
    some = calibration(tmp_path, conv_net())
    with pytest.raises(ValueError, match="there are entropy, max"):
        QuantizeModelopt(some, "mse")  # type: ignore[arg-type]


@real
@pytest.mark.slow
@pytest.mark.parametrize("calibrator", ["entropy", "max"])
def test_modelopt_makes_what_tensorrt_reads_and_the_same_bytes(tmp_path: Path, calibrator: str) -> None:
    model = conv_net()
    base, some = source(tmp_path / "m", model), calibration(tmp_path, model)
    step = QuantizeModelopt(some, calibrator)  # type: ignore[arg-type]
    int8 = run(step, base, tmp_path / "int8")
    assert run(step, base, tmp_path / "again").digest == int8.digest
    graph = onnx.load(str(int8.main)).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        assert tensors[node.input[2]].data_type == onnx.TensorProto.INT8
        assert not numpy_helper.to_array(tensors[node.input[2]]).any()
    weights = [tensors[node.input[0]] for node in pairs if node.input[0] in tensors]
    assert [one.data_type for one in weights] == [onnx.TensorProto.INT8] * 2, "no bias, no pair before a weight"
    assert sqnr(answers(base, feed()), answers(int8, feed())) > 15
    assert ", ranges by its" in notes_in(int8.main)[0]
    packed = tmp_path / "packed"
    packed.mkdir()
    PackTensorrtBuild().run(int8, packed)


@real
@pytest.mark.slow
def test_modelopt_leaves_small_products_and_broken_samples_are_not_quantized(tmp_path: Path) -> None:
    for name, model, kind in (("small", matmul_net(), UnsupportedModel), ("broken", conv_net(), SamplesInvalid)):
        folder = tmp_path / name
        base, some = source(folder / "m", model), calibration(folder, model, broken=name == "broken")
        with pytest.raises(kind):
            QuantizeModelopt(some, "max").run(base, folder)
