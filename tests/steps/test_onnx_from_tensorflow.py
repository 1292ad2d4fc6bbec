"""Keras, SavedModel and TFLite to ONNX: files made here, with their traps; each checked against its framework."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from mlopt.artifact import Artifact
from mlopt.check.parity import check_parity
from mlopt.errors import ModelUnreadable, NeedsFactory, UnsupportedModel
from mlopt.signature import signature
from mlopt.source import export_step, open_model
from mlopt.step import installed
from mlopt.store import Store

if installed("tensorflow") is None:
    pytest.skip("tensorflow is not installed", allow_module_level=True)
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# One process makes every file: TensorFlow takes seconds to import, and has no place in the test process.
MAKE = textwrap.dedent(
    """
    import sys, h5py, json, keras, numpy as np, tensorflow as tf
    folder = sys.argv[1]
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = layers.Input((8, 8, 3), name="image")
    y = layers.Conv2D(4, 3, activation="gelu", name="conv")(x)
    y = layers.BatchNormalization(name="norm", moving_mean_initializer="ones")(y)
    y = layers.DepthwiseConv2D(3, name="depthwise")(y)
    y = layers.GlobalAveragePooling2D()(y)
    model = keras.Model(x, layers.Dense(5, name="scores")(y))
    model.save(folder + "/net.keras")
    model.save(folder + "/net.h5")
    model.save_weights(folder + "/net.weights.h5")
    model.export(folder + "/saved")
    plain = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu")(x))))
    open(folder + "/net.tflite", "wb").write(tf.lite.TFLiteConverter.from_keras_model(plain).convert())
    with h5py.File(folder + "/net.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)

    a, b = layers.Input((4,), name="left"), layers.Input((6,), name="right")
    outputs = [layers.Dense(3, name="sum")(layers.Concatenate()([a, b])), layers.Dense(2, name="own")(b)]
    both = keras.Model([a, b], outputs)
    both.save(folder + "/both.keras")
    np.savez(folder + "/net.npz", x=np.ones((2, 8, 8, 3), "f"), y=model(np.ones((2, 8, 8, 3), "f")).numpy())

    class Odd(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
        def __call__(self, x):
            return {"y": tf.raw_ops.Betainc(a=tf.abs(x), b=tf.abs(x), x=tf.sigmoid(x))}
    odd = Odd()
    tf.saved_model.save(odd, folder + "/odd", signatures=odd.__call__)
    """
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensorflow")
    done = subprocess.run([sys.executable, "-c", MAKE, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


Export = Callable[[Path], tuple[Artifact, Artifact]]


@pytest.fixture
def export(store: Store) -> Export:
    def run(path: Path) -> tuple[Artifact, Artifact]:
        source = open_model(path, store=store)
        return source, store.run(export_step(source, opset=20), source)

    return run


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "saved", "net.tflite"])
def test_exports_and_agrees(name: str, made: Path, store: Store, export: Export) -> None:
    """Gelu leaves an Erfc behind that no runtime knows; `net.h5` has the `groups` that Keras 2 wrote."""
    source, exported = export(made / name)
    found = signature(exported)
    assert found.inputs[0].shape == ("batch", 8, 8, 3), "channels last, as the source has it"
    assert found.opset <= 18
    assert "Erfc" not in found.op_types
    parity = check_parity(source, exported, store=store)
    assert {one.batch for one in parity} == {1, 3}
    assert max(one.max_absolute for one in parity) < 1e-5


def test_the_export_answers_what_keras_answered(made: Path, export: Export) -> None:
    import onnxruntime as ort

    with np.load(made / "net.npz") as known:
        x, y = known["x"], known["y"]
    _, exported = export(made / "net.keras")
    session = ort.InferenceSession(str(exported.main), providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(["scores"], {"image": x})[0], y, atol=1e-5)


def test_several_inputs_and_outputs_keep_their_names(made: Path, store: Store, export: Export) -> None:
    source, exported = export(made / "both.keras")
    found = signature(exported)
    assert {tensor.name: tensor.shape for tensor in found.inputs} == {"left": ("batch", 4), "right": ("batch", 6)}
    assert [tensor.name for tensor in found.outputs] == ["sum", "own"]
    assert max(one.max_absolute for one in check_parity(source, exported, store=store)) < 1e-5


def test_the_same_bytes_twice(made: Path, tmp_path: Path) -> None:
    digests = set()
    for name in "ab":
        store = Store(tmp_path / name)
        source = open_model(made / "net.keras", store=store)
        digests.add(store.run(export_step(source, opset=18), source).digest)
    assert len(digests) == 1


def test_no_machine_path_is_left_in_the_graph(made: Path, export: Export) -> None:
    content = onnx.load(str(export(made / "net.keras")[1].main)).SerializeToString()
    assert str(made).encode() not in content
    assert b"site-packages" not in content


def test_weights_alone_have_no_graph(made: Path, store: Store) -> None:
    with pytest.raises(NeedsFactory, match="weights only") as raised:
        open_model(made / "net.weights.h5", store=store)
    assert "model.save" in raised.value.next


def test_an_operation_without_an_onnx_form_is_named(made: Path, store: Store, export: Export) -> None:
    with pytest.raises(UnsupportedModel, match="Betainc"):
        export(made / "odd")
    assert not list((store.root / "scratch").iterdir())


@pytest.mark.parametrize("name", ["net.keras", "net.h5", "net.tflite"])
def test_truncated_files(name: str, made: Path, tmp_path: Path, export: Export) -> None:
    content = (made / name).read_bytes()
    cut = tmp_path / name
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelUnreadable):
        export(cut)


def test_a_saved_model_without_its_variables(made: Path, tmp_path: Path, export: Export) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes((made / "saved" / "saved_model.pb").read_bytes())
    with pytest.raises(ModelUnreadable, match="cannot read the SavedModel"):
        export(tmp_path / "saved")


def test_a_layer_that_keras_does_not_know(made: Path, tmp_path: Path, export: Export) -> None:
    import zipfile

    with zipfile.ZipFile(made / "net.keras") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    config = json.loads(members["config.json"])
    config["config"]["layers"][1].update(class_name="TheirOwn", module=None, registered_name="their>TheirOwn")
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(tmp_path / "own.keras", "w") as changed:
        for name, content in members.items():
            changed.writestr(name, content)
    with pytest.raises(UnsupportedModel, match="does not know"):
        export(tmp_path / "own.keras")
