"""The runtime in an image: the one that its model was judged in, and nothing of any other."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mlopt.errors import ImageFailed
from mlopt.image.assemble import Image, ImageSpec, assemble
from mlopt.image.elf import strip
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import docker_folder, read_lock
from mlopt.image.layers import PYTHON_PATH
from mlopt.image.layout import blob_path, read_blob
from mlopt.image.load import manifest_of

Make = Callable[..., ImageSpec]
LOCK = docker_folder() / "runtime.lock.json"


def paths(layout: Path, platform: str) -> set[str]:
    found = set[str]()
    for layer in manifest_of(layout, platform)["layers"]:
        with tarfile.open(blob_path(layout, layer), "r:gz") as tar:
            found |= set(tar.getnames())
    return found


def test_an_image_holds_the_one_runtime_that_its_model_needs(openvino_image: Image) -> None:
    for platform in ("linux/amd64", "linux/arm64"):
        found = paths(openvino_image.path, platform)
        assert not [path for path in found if "/onnxruntime" in path]
        libraries = sorted({Path(path).name.partition(".")[0] for path in found if "/openvino/libs/" in path})
        libraries = [name for name in libraries if name.startswith("libopenvino")]
        cpu = "libopenvino_intel_cpu_plugin" if platform == "linux/amd64" else "libopenvino_arm_cpu_plugin"
        assert libraries == sorted(["libopenvino", cpu, "libopenvino_onnx_frontend"])
        assert not [path for path in found if "openvino_telemetry" in path or "/openvino/tools" in path]
        config = json.loads(read_blob(openvino_image.path, manifest_of(openvino_image.path, platform)["config"]))
        assert config["config"]["Labels"]["io.mlopt.runtime"] == "openvino"


@pytest.mark.litert
def test_of_litert_it_holds_the_interpreter_alone(litert_image: Image) -> None:
    for image in litert_image.platforms:
        found = paths(litert_image.path, image.platform)
        assert not [path for path in found if "/dist-packages/o" in path and "/orjson" not in path]
        files = {path.rpartition("/ai_edge_litert/")[2] for path in found if "/ai_edge_litert/" in path}
        assert {file for file in files if ".so" in file} == {
            "_pywrap_litert_interpreter_wrapper.so",
            "libpywrap_litert_common.so",
        }
        modules = ("__init__", "interpreter", "metrics_interface", "metrics_portable")
        assert {Path(file).stem for file in files if ".so" not in file} == set(modules)
        assert {"model/model.onnx", "model/model.tflite", "model/serving.json"} <= found
        config = json.loads(read_blob(litert_image.path, manifest_of(litert_image.path, image.platform)["config"]))
        labels = config["config"]["Labels"]
        (version,) = (one.version for one in read_lock(LOCK).of(image.platform) if one.name == "ai-edge-litert")
        assert (labels["io.mlopt.runtime"], labels["io.mlopt.runtime-version"]) == ("litert", version)
        below = [layer for layer in image.layers if layer.name != "model"]
        assert sum(layer.size for layer in below) <= 24.3e6
        assert sum(layer.unpacked for layer in below) <= 70e6


def test_what_is_stripped_and_what_keeps_its_source(image: Image) -> None:
    """By the names that docker/python.toml has: a wheel that renames a file would lose either in silence."""
    for platform in ("linux/amd64", "linux/arm64"):
        found = paths(image.path, platform)
        packages = PYTHON_PATH.format(python="3.11")
        assert {f"{packages}/anyio/__init__.py", f"{packages}/anyio/abc/__init__.py"} <= found
        parsers = [path for path in found if "/httptools/parser/" in path and path.endswith(".so")]
        assert len(parsers) == 2
        for layer in manifest_of(image.path, platform)["layers"]:
            with tarfile.open(blob_path(image.path, layer), "r:gz") as tar:
                for name in set(parsers) & set(tar.getnames()):
                    library = tar.extractfile(name)
                    assert library is not None
                    data = library.read()
                    assert strip(data) == data


@pytest.mark.litert
def test_the_same_digest_again_in_another_cache(
    make_spec: Make, inputs: Inputs, fresh_inputs: Inputs, tmp_path: Path
) -> None:
    spec = make_spec(runtime="litert", seed=3)
    here, there = (
        assemble(spec, tmp_path / f"{place}", inputs=one) for place, one in enumerate((inputs, fresh_inputs))
    )
    assert here.digest == there.digest


def test_a_runtime_that_no_image_holds_is_named(make_spec: Make, inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(ImageFailed, match="No image holds the runtime onnx-reference") as refused:
        assemble(make_spec(runtime="onnx-reference"), tmp_path / "image", inputs=inputs)
    assert "--no-image" in refused.value.next
