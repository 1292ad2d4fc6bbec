"""A small real model folder: pictures of 8 x 8 in, three classes out, batch free."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.image.assemble import ImageSpec, assemble
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import host_platform
from mlopt.image.rootfs import server_command, unpack_rootfs
from mlopt.image.serving import describe_serving, encode_serving
from mlopt.serve.preprocess import Preprocess


def write_model(folder: Path) -> Path:
    """A linear classifier: class 0, 1, 2 wins on a red, green, blue picture; a score is 4 times the mean."""
    weight = np.zeros((3 * 64, 3), np.float32)
    for channel in range(3):
        weight[channel * 64 : (channel + 1) * 64, channel] = 4 / 64
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["pixels"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        ],
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    serving = describe_serving(
        write_model(folder),
        name="colours",
        version="3",
        preprocess=Preprocess(scale=1 / 255).as_json(),
        classes=["red", "green", "</script><b>blue"],
        task="classify",
    )
    (folder / "serving.json").write_bytes(encode_serving(serving))
    return folder


@pytest.fixture
def broken_folder(model_folder: Path, tmp_path: Path) -> Path:
    """serving.json is right, the model is cut short."""
    (tmp_path / "serving.json").write_bytes((model_folder / "serving.json").read_bytes())
    (tmp_path / "model.onnx").write_bytes((model_folder / "model.onnx").read_bytes()[:200])
    assert json.loads((tmp_path / "serving.json").read_bytes())["file"] == "model.onnx"
    return tmp_path


@pytest.fixture(scope="session")
def native(model_folder: Path, image_inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The native server of a real image of this machine's platform, as a command that wants options."""
    serving = json.loads((model_folder / "serving.json").read_bytes())
    spec = ImageSpec("colours", model_folder / "model.onnx", serving, server="native", platforms=(host_platform(),))
    layout = assemble(spec, tmp_path_factory.mktemp("native") / "image", inputs=image_inputs).path
    files = unpack_rootfs(layout, platform=host_platform(), root=tmp_path_factory.mktemp("files"))
    return server_command(layout, files, platform=host_platform(), arguments=()).arguments


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of localhost, PEM: the certificate and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(cert)]
    subject = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*made, *subject], check=True, capture_output=True)
    return cert, key
