"""What image tests share: the locked inputs, tiny models with new weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.image.assemble import Image, ImageSpec, assemble
from mlopt.image.fetch import Inputs
from mlopt.image.serving import describe_serving
from mlopt.request import Server
from mlopt.serve.preprocess import Preprocess
from mlopt.tflite.wrapper import save_wrapped


@pytest.fixture(scope="session")
def inputs(image_inputs: Inputs) -> Inputs:
    return image_inputs


@pytest.fixture
def fresh_inputs(inputs: Inputs, tmp_path: Path) -> Inputs:
    """The same inputs in a cache that has no packed layer yet."""
    root = tmp_path / "fresh-cache"
    root.mkdir()
    (root / "inputs").symlink_to(inputs.root / "inputs")
    return Inputs(root=root)


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., ImageSpec]:
    """Specs of a tiny model whose weights are new every time, so that no engine can answer from its store."""

    def make(
        *, seed: int | None = None, name: str = "colours", runtime: str = "onnxruntime", server: Server = "python"
    ) -> ImageSpec:
        random = np.random.default_rng(seed)
        weight = random.normal(size=(3 * 64, 3)).astype(np.float32)
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["pixels"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["scores"])],
            "tiny",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        folder = tmp_path / f"model-{os.urandom(4).hex()}"
        folder.mkdir()
        path = folder / "model.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        if runtime == "litert":
            save_wrapped(path, folder)  # beside it, so that the whole folder ships
        serving = describe_serving(path, name=name, preprocess=Preprocess().as_json(), task="classify", runtime=runtime)
        model = folder if runtime == "litert" else path
        return ImageSpec(name, model, serving, server, annotations={"io.mlopt.target": "host"})

    return make


@pytest.fixture
def openvino_image(inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path) -> Image:
    """A real image whose model runs in OpenVINO, of both platforms."""
    return assemble(make_spec(runtime="openvino"), tmp_path / "openvino-image", inputs=inputs)


@pytest.fixture
def litert_image(inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path) -> Image:
    """A real image whose model runs in LiteRT, of both platforms."""
    return assemble(make_spec(runtime="litert"), tmp_path / "litert-image", inputs=inputs)


@pytest.fixture
def native_image(inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path) -> Image:
    """A real image whose server is no Python, of both platforms."""
    return assemble(make_spec(server="native"), tmp_path / "native-image", inputs=inputs)


@pytest.fixture
def image(inputs: Inputs, make_spec: Callable[..., ImageSpec], tmp_path: Path) -> Image:
    """A real image of both platforms."""
    return assemble(make_spec(), tmp_path / "image", inputs=inputs)
