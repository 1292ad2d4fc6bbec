"""Opening models: formats by content, and every kind of file that is no model, or must not be loaded."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlopt.artifact import ONNX, digest_of
from mlopt.errors import ModelNotFound, ModelUnreadable, NeedsFactory, NotTrusted
from mlopt.sniff import KERAS, SAFETENSORS, TFLITE, TORCH_WEIGHTS, TORCHSCRIPT, sniff
from mlopt.source import open_model
from mlopt.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def onnx_model(width: int = 4) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((width, 3), dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as whole:
        for name, content in members.items():
            whole.writestr(name, content)
    return path


def safetensors(path: Path, *, cut: int = 0) -> Path:
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    content = struct.pack("<Q", len(header)) + header + bytes(8)
    path.write_bytes(content[: len(content) - cut])
    return path


class Marker:
    """Unpickling this makes a folder: the proof that nothing was unpickled is that there is none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


# What a state_dict of torch looks like to a scanner: tensors rebuilt from storages, and an OrderedDict.
STATE = (
    b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n"
    b"(ctorch\nFloatStorage\nK\x00tRu."
)


def test_format_is_read_from_content_whatever_the_name(tmp_path: Path) -> None:
    wrong = tmp_path / "model.h5"
    cases = [
        (onnx_model().SerializeToString(), ONNX),
        (b"\x1c\x00\x00\x00TFL3" + bytes(64), TFLITE),
        (STATE, TORCH_WEIGHTS),
    ]
    for content, format in cases:
        wrong.write_bytes(content)
        assert sniff(wrong).format == format
    assert sniff(safetensors(tmp_path / "model.onnx")).format == SAFETENSORS
    assert sniff(archive(tmp_path / "a.pt", {"a/data.pkl": STATE})).format == TORCH_WEIGHTS
    keras = {"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": b"x"}
    assert sniff(archive(tmp_path / "a.zip", keras)).format == KERAS


def test_an_absent_model_names_its_neighbour(tmp_path: Path, store: Store) -> None:
    (tmp_path / "squeezenet.onnx").write_bytes(onnx_model().SerializeToString())
    with pytest.raises(ModelNotFound, match=r"Did you mean .*squeezenet\.onnx"):
        open_model(tmp_path / "squezenet.onnx", store=store)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"version https://git-lfs", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG image"),
        (b"\x00\x01\x02\x03" * 20, "nothing known"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
        (b"\x89HDF\r\n\x1a\n" + bytes(32) + struct.pack("<Q", 5000) + bytes(64), "should have 5000 bytes"),
        (STATE[:-12], "truncated or damaged"),
        (onnx_model().SerializeToString()[:-20], "truncated or damaged"),
        (onnx_model(2000).SerializeToString()[:9000], "truncated or damaged"),
    ],
)
def test_files_that_are_no_model(content: bytes, says: str, tmp_path: Path, store: Store) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=says):
        open_model(path, store=store, trust=True, factory="json:loads")
    assert not (store.root / "results").exists()


def test_truncated_safetensors(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ModelUnreadable, match="should have"):
        open_model(safetensors(tmp_path / "w.safetensors", cut=3), store=store, factory="json:loads")


def test_a_zip_with_a_damaged_member(tmp_path: Path) -> None:
    path = archive(tmp_path / "w.pt", {"w/data.pkl": STATE, "w/data/0": bytes(range(256)) * 4})
    content = bytearray(path.read_bytes())
    position = content.index(bytes(range(256))) + 100
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match="checksum of w/data/0"):
        sniff(path)


def test_a_folder_that_is_no_saved_model(tmp_path: Path, store: Store) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(ModelUnreadable, match=r"holds notes\.txt"):
        open_model(tmp_path / "folder", store=store)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_with_code_is_refused_and_never_run(protocol: int, zipped: bool, tmp_path: Path, store: Store) -> None:
    marker = tmp_path / "ran"
    content = pickle.dumps({"weights": Marker(marker)}, protocol=protocol)
    path = tmp_path / "model.pt"
    if zipped:
        archive(path, {"model/data.pkl": content})
    else:
        path.write_bytes(content)
    with pytest.raises(NotTrusted, match="mkdir"):
        open_model(path, store=store)
    assert open_model(path, store=store, trust=True).format == "torch-pickled"
    assert not marker.exists(), "opening must not unpickle, not even a trusted file"


def test_a_computed_import_is_not_taken_for_a_tensor(tmp_path: Path) -> None:
    """STACK_GLOBAL may take its names from anywhere; what cannot be followed counts as code."""
    computed = b"\x80\x04(\x8c\x02os\x8c\x05mkdir\x93\x8c\x01xt\x81."
    path = tmp_path / "m.pt"
    path.write_bytes(computed)
    assert "os.mkdir" in sniff(path).code


def test_torchscript_needs_trust(tmp_path: Path, store: Store) -> None:
    members = {"m/data.pkl": STATE, "m/constants.pkl": b"\x80\x02).", "m/code/__torch__.py": b"class M: ..."}
    path = archive(tmp_path / "m.pt", members)
    with pytest.raises(NotTrusted, match="TorchScript code"):
        open_model(path, store=store)
    assert open_model(path, store=store, trust=True).format == TORCHSCRIPT


def test_keras_with_code_needs_trust(tmp_path: Path, store: Store) -> None:
    config = json.dumps({"config": {"layers": [{"class_name": "Lambda", "config": {}}]}}).encode()
    members = {"config.json": config, "metadata.json": b"{}", "model.weights.h5": b"x"}
    with pytest.raises(NotTrusted, match="Lambda layer"):
        open_model(archive(tmp_path / "m.keras", members), store=store)


def test_weights_need_a_factory_that_exists(tmp_path: Path, store: Store) -> None:
    path = safetensors(tmp_path / "w.safetensors")
    with pytest.raises(NeedsFactory, match="weights only") as raised:
        open_model(path, store=store)
    assert "--factory" in raised.value.next
    with pytest.raises(NeedsFactory, match="cannot be found"):
        open_model(path, store=store, factory="no_such_module:build")
    with pytest.raises(NeedsFactory, match="does not name a factory"):
        open_model(path, store=store, factory="module.without.colon")


def external(folder: Path, location: str) -> Path:
    """A model whose weight claims to lie at `location`."""
    model = onnx_model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = folder / "big.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_weights_are_adopted_with_the_model(tmp_path: Path, store: Store) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(np.ones((4, 3), dtype=np.float32).tobytes())
    source = open_model(external(tmp_path, "parts/w.bin"), store=store)
    assert source.main.name == "model.onnx"
    onnx.checker.check_model(str(source.main))
    assert (source.path / "parts" / "w.bin").stat().st_size == 48
    assert not any(file.is_symlink() for file in source.path.rglob("*")), "the user's files may go away"
    assert source.digest == digest_of(source.path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "parts/../../secret.bin", "link.bin"])
def test_external_weights_outside_the_folder_are_refused(location: str, tmp_path: Path, store: Store) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    folder = tmp_path / "model"
    (folder / "parts").mkdir(parents=True)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelUnreadable, match="outside its own folder"):
        open_model(external(folder, location), store=store)


def test_external_weights_that_are_absent_or_short(tmp_path: Path, store: Store) -> None:
    path = external(tmp_path, "w.bin")
    with pytest.raises(ModelUnreadable, match="not beside it"):
        open_model(path, store=store)
    (tmp_path / "w.bin").write_bytes(bytes(47))
    with pytest.raises(ModelUnreadable, match="should have at least 48 bytes"):
        open_model(path, store=store)


@pytest.mark.torch
@pytest.mark.slow
def test_files_that_torch_writes(tmp_path: Path, store: Store) -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
    example = torch.zeros(2, 3, 8, 8)
    torch.save(module.state_dict(), tmp_path / "new.pth")
    torch.save(module.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save(module, tmp_path / "module.pt")
    torch.save({"state_dict": module.half().state_dict(), "epoch": 3}, tmp_path / "checkpoint.pt")
    module.float()
    torch.jit.save(torch.jit.trace(module, example), tmp_path / "traced.pt")
    torch.export.save(torch.export.export(module, (example,)), tmp_path / "program.pt2")
    found = {path.name: sniff(path) for path in tmp_path.iterdir() if path.is_file()}
    assert {name: (each.format, bool(each.code)) for name, each in found.items()} == {
        "new.pth": ("torch-weights", False),
        "old.pth": ("torch-weights", False),
        "checkpoint.pt": ("torch-weights", False),
        "module.pt": ("torch-pickled", True),
        "traced.pt": ("torchscript", True),
        "program.pt2": ("torch-exported", False),
    }
    buffer = io.BytesIO((tmp_path / "new.pth").read_bytes()[:-500])
    (tmp_path / "cut.pth").write_bytes(buffer.getvalue())
    with pytest.raises(ModelUnreadable, match="truncated or damaged"):
        open_model(tmp_path / "cut.pth", store=store, factory="json:loads")
