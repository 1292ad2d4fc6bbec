"""What goes wrong while an image is made, each with one error: no wheel, another wheel, a full disk, a huge model."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from mlopt.errors import ImageFailed, ModelUnreadable, NoSpaceLeft
from mlopt.image.assemble import ImageSpec, assemble, kitchen_of
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, Lock
from mlopt.image.layers import LayerCache, model_layer
from mlopt.onnx_file import PROTOBUF_LIMIT, load_graph

Make = Callable[..., ImageSpec]


@pytest.mark.parametrize(("runtime", "wheel"), [("openvino", "openvino"), ("litert", "ai-edge-litert")])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_runtime_without_a_wheel_for_the_platform(inputs: Inputs, platform: str, runtime: str, wheel: str) -> None:
    """Never an image that lacks what it runs on."""
    kitchen = kitchen_of(inputs)
    locked = {
        name: tuple(one for one in rows if (name, one.name) != (platform, wheel))
        for name, rows in kitchen.runtime.packages.items()
    }
    kitchen = dataclasses.replace(kitchen, runtime=Lock(locked))
    with pytest.raises(ImageFailed, match=f"no locked wheel of {wheel} for {platform}") as caught:
        kitchen.wheels(platform, runtime, "python")
    assert "--ship NAME" in caught.value.next
    assert kitchen.wheels(platform, "onnxruntime", "python")
    (other,) = set(PLATFORMS) - {platform}
    assert kitchen.wheels(other, runtime, "python")


@pytest.mark.slow
def test_a_wheel_that_is_another_than_was_locked(inputs: Inputs, tmp_path: Path) -> None:
    """By pip itself, from a folder of wheels."""
    package = next(one for one in kitchen_of(inputs).runtime.of("linux/arm64") if one.name == "h11")
    changed = dataclasses.replace(package, sha256="0" * 64)
    wheels = inputs.wheels([package], python="3.11")[0].parent
    program = (
        "import sys; from pathlib import Path; from mlopt.image.fetch import Inputs\n"
        "from mlopt.image.inputs import Package\n"
        f"Inputs(Path(sys.argv[1])).wheels([{changed!r}], python='3.11')"
    )
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    said = done.stderr.splitlines()[-1]
    assert f"ImageFailed: {package.filename} is not the file that was locked" in done.stderr, said
    assert not list((tmp_path / "inputs").rglob("*.whl"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small file system needs mount")
    if done.returncode:
        pytest.skip("a small file system needs the right to mount one")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(inputs: Inputs, make_spec: Make, small_disk: Path) -> None:
    into = small_disk / "image"
    with pytest.raises(NoSpaceLeft, match="the last one stays") as caught:
        assemble(make_spec(), into, inputs=inputs)
    assert "choose another --out" in caught.value.next
    assert list(small_disk.iterdir()) == []
    (small_disk / "inputs").symlink_to(inputs.root / "inputs")
    with pytest.raises(NoSpaceLeft) as caught:
        assemble(make_spec(), small_disk.parent / "image", inputs=Inputs(small_disk))
    assert "MLOPT_CACHE_DIR" in caught.value.next
    assert not list((small_disk / "scratch").iterdir())


@pytest.mark.slow
def test_weights_of_more_than_2_gb_beside_the_model(tmp_path: Path) -> None:
    """Sparse on disk; in the layer they are read whole."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    with (folder / "model.onnx.data").open("wb") as stream:
        stream.truncate(PROTOBUF_LIMIT + 100)
    layer = model_layer(folder, b"{}", cache=LayerCache(tmp_path / "cache"))
    assert layer.unpacked == PROTOBUF_LIMIT + 100 + len(b"graph") + len(b"{}")
    assert layer.size < 20e6


def test_a_file_of_more_than_2_gb_is_told_apart_from_a_damaged_one(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    path.write_bytes(helper.make_model(graph).SerializeToString() + b"\x3a\xff\xff\xff\xff\x07")
    with pytest.raises(ModelUnreadable, match="damaged"):
        load_graph(path)
    os.truncate(path, PROTOBUF_LIMIT + 1)
    with pytest.raises(ModelUnreadable, match="larger than 2 GB") as caught:
        load_graph(path)
    assert "save_as_external_data=True" in caught.value.next
