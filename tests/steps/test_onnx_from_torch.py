"""torch to ONNX: every kind of file, factories that do not fit, operators that do not exist, batches baked in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mlopt.artifact import Artifact, Digest
from mlopt.check.parity import check_parity
from mlopt.errors import ExportFailed, Misused, ModelUnreadable, NeedsFactory, ParityFailed, UnsupportedModel
from mlopt.signature import InputSpec, signature
from mlopt.source import export_step, open_model
from mlopt.step import options_of
from mlopt.store import Store

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.slow]

NETS = """
import torch
from torch import nn
import layers

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = layers.head()
    def forward(self, image):
        return self.head(torch.relu(self.norm(self.conv(image))).mean((2, 3)))

def net():
    return Net(), (torch.zeros(1, 3, 8, 8),)

def without_example():
    return Net()

class Baked(Net):
    def forward(self, image):
        return super().forward(image).reshape(2, -1).reshape(2, 5)

def baked():
    return Baked(), (torch.zeros(2, 3, 8, 8),)

def narrow():
    net = Net()
    net.head = nn.Linear(4, 3)
    return net, (torch.zeros(1, 3, 8, 8),)

class Renamed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = Net()
        self.extra = nn.Linear(2, 2)

def renamed():
    return Renamed(), (torch.zeros(1, 3, 8, 8),)

def broken():
    return undefined_name

def killed():
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)

def number():
    return 7

@torch.library.custom_op("mlopt_test::twist", mutates_args=())
def twist(x: torch.Tensor) -> torch.Tensor:
    return x.flip(0).clone()

@twist.register_fake
def _(x):
    return torch.empty_like(x)

class Twisted(Net):
    def forward(self, image):
        return twist(super().forward(image))

def twisted():
    return Twisted(), (torch.zeros(1, 3, 8, 8),)

class Branching(Net):
    def forward(self, image):
        y = super().forward(image)
        return y if y.sum() > 0 else -y

def branching():
    return Branching(), (torch.zeros(1, 3, 8, 8),)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as a user has one: factories in `nets.py`, which imports `layers.py`; mlopt is run from it."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "layers.py").write_text("from torch import nn\n\ndef head():\n    return nn.Linear(4, 5)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def module(project: Path) -> object:
    """The net of the project with weights that are not those it starts with, normalisation statistics too."""
    import importlib
    import sys

    for name in ("nets", "layers"):
        sys.modules.pop(name, None)
    torch.manual_seed(0)
    net = importlib.import_module("nets").Net().eval()
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net


Export = Callable[..., tuple[Artifact, Artifact]]


@pytest.fixture
def export(store: Store) -> Export:
    def run(path: Path, factory: str | None = None, **options: object) -> tuple[Artifact, Artifact]:
        source = open_model(path, store=store, factory=factory, trust=True)
        return source, store.run(export_step(source, opset=18, factory=factory, **options), source)

    return run


def weights(module: object, folder: Path) -> Path:
    torch.save(module.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def test_weights_with_a_factory(module: object, project: Path, store: Store, export: Export) -> None:
    source, exported = export(weights(module, project), "nets:net")
    found = signature(exported)
    assert found.inputs[0].shape == ("batch", 3, 8, 8)
    assert found.outputs[0].name == "output"
    parity = check_parity(source, exported, store=store, factory="nets:net")
    assert {one.batch for one in parity} == {1, 3}
    assert max(one.max_absolute for one in parity) < 1e-5
    again = Store(project / "again")
    second = again.run(export_step(source, opset=18, factory="nets:net"), source)
    assert second.digest == exported.digest, "the same bytes twice"


def test_a_damaged_export_names_the_layer(module: object, project: Path, store: Store, export: Export) -> None:
    source, exported = export(weights(module, project), "nets:net")
    model = onnx.load(str(exported.main))
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    node = next(node for node in model.graph.node if tensor.name in node.input)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.1), tensor.name))
    (project / "broken").mkdir()
    onnx.save(model, str(project / "broken" / "model.onnx"))
    broken = dataclasses.replace(exported, path=project / "broken", digest=Digest("0" * 64))
    with pytest.raises(ParityFailed) as raised:
        check_parity(source, broken, store=store, factory="nets:net")
    assert raised.value.where == f"values first part at {node.name} (Conv)"


def test_safetensors_and_legacy_and_wrapped_weights(
    module: object, project: Path, store: Store, export: Export
) -> None:
    from safetensors.torch import save_file

    save_file(module.state_dict(), project / "w.safetensors")
    torch.save(module.state_dict(), project / "legacy.pth", _use_new_zipfile_serialization=False)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in module.state_dict().items()}}
    torch.save(wrapped, project / "checkpoint.pt")
    digests = {
        export(project / name, "nets:net")[1].digest for name in ("w.safetensors", "legacy.pth", "checkpoint.pt")
    }
    assert len(digests) == 1


def test_an_exported_program(module: object, project: Path, store: Store, export: Export) -> None:
    dims = {"image": {0: torch.export.Dim("n")}}
    program = torch.export.export(module, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=dims)
    torch.export.save(program, project / "model.pt2")
    source, exported = export(project / "model.pt2")
    assert source.format == "torch-exported"
    assert signature(exported).inputs[0].shape == ("batch", 3, 8, 8)
    assert max(one.max_absolute for one in check_parity(source, exported, store=store)) < 1e-5


def test_a_program_of_a_fixed_batch_becomes_dynamic(
    module: object, project: Path, store: Store, export: Export
) -> None:
    torch.export.save(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), project / "model.pt2")
    source, exported = export(project / "model.pt2")
    assert signature(exported).inputs[0].shape == ("batch", 3, 8, 8)
    assert {one.batch for one in check_parity(source, exported, store=store)} == {1, 3}


def test_torchscript_with_shapes(module: object, project: Path, store: Store, export: Export) -> None:
    torch.jit.save(torch.jit.script(module), project / "model.pt")
    with pytest.raises(Misused, match="does not say the shapes") as raised:
        export(project / "model.pt")
    assert 'image = "float32[' in raised.value.next
    given = {"image": InputSpec.parse("float32[N,3,8,8]")}
    source, exported = export(project / "model.pt", inputs=given)
    assert source.format == "torchscript"
    assert signature(exported).inputs[0].shape == ("N", 3, 8, 8)
    parity = check_parity(source, exported, store=store, inputs=given)
    assert max(one.max_absolute for one in parity) < 1e-5


def test_a_trusted_module(module: object, project: Path, store: Store, export: Export) -> None:
    module.example_inputs = (torch.zeros(1, 3, 8, 8),)
    torch.save(module, project / "model.pt")
    source, exported = export(project / "model.pt")
    assert source.format == "torch-pickled"
    assert max(one.max_absolute for one in check_parity(source, exported, store=store)) < 1e-5
    (project / "nets.py").rename(project / "elsewhere.py")
    with pytest.raises(ModelUnreadable, match="needs code that is not here"):
        Store(project / "other").run(export_step(source, opset=18), source)


def test_a_batch_that_is_baked_in_is_not_called_dynamic(
    module: object, project: Path, store: Store, export: Export
) -> None:
    _, exported = export(weights(module, project), "nets:baked")
    assert signature(exported).batch is None, "reshape(2, -1) exports under a dynamic batch without an error"
    assert signature(exported).inputs[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("factory", "says"),
    [
        ("narrow", r"head\.weight is \[5, 4\] in the file and \[3, 4\] in the model"),
        ("renamed", r"missing body\.conv\.weight.* and \d+ more; unexpected conv\.weight"),
        ("broken", "NameError: name 'undefined_name' is not defined"),
        ("number", "returned a int"),
        ("absent", "has no attribute 'absent'"),
    ],
)
def test_factories_that_do_not_fit(factory: str, says: str, module: object, project: Path, export: Export) -> None:
    with pytest.raises(NeedsFactory, match=says):
        export(weights(module, project), f"nets:{factory}")


def test_a_converter_that_is_killed_leaves_nothing(module: object, project: Path, store: Store, export: Export) -> None:
    with pytest.raises(ExportFailed, match="killed by SIGKILL"):
        export(weights(module, project), "nets:killed")
    assert [path.name[:7] for path in (store.root / "results").iterdir()] == ["adopted"]
    assert not list((store.root / "scratch").iterdir())


def test_a_factory_without_example_inputs(module: object, project: Path, export: Export) -> None:
    path = weights(module, project)
    with pytest.raises(Misused, match="inputs are not known") as raised:
        export(path, "nets:without_example")
    assert "image" in raised.value.where
    _, exported = export(path, "nets:without_example", inputs={"image": InputSpec.parse("float32[N,3,8,8]")})
    assert signature(exported).inputs[0].shape == ("N", 3, 8, 8)


def test_an_operator_without_an_onnx_form_is_named(module: object, project: Path, store: Store, export: Export) -> None:
    with pytest.raises(UnsupportedModel, match=r"mlopt_test\.twist"):
        export(weights(module, project), "nets:twisted")
    assert not list((store.root / "scratch").iterdir())


def test_a_branch_on_values_cannot_be_exported(module: object, project: Path, export: Export) -> None:
    with pytest.raises(ExportFailed, match="exporter failed") as raised:
        export(weights(module, project), "nets:branching")
    assert "torch.cond" in raised.value.next


def test_editing_the_factory_or_what_it_imports_changes_the_key(module: object, project: Path, store: Store) -> None:
    source = open_model(weights(module, project), store=store, factory="nets:net")
    keys = [options_of(export_step(source, opset=18, factory="nets:net"))["factory"]]
    (project / "layers.py").write_text((project / "layers.py").read_text() + "\n# edited\n")
    keys.append(options_of(export_step(source, opset=18, factory="nets:net"))["factory"])
    (project / "nets.py").write_text(NETS + "\n# edited\n")
    keys.append(options_of(export_step(source, opset=18, factory="nets:net"))["factory"])
    assert len(set(keys)) == 3


def test_an_opset_below_what_torch_export_writes(module: object, project: Path, store: Store) -> None:
    path = weights(module, project)
    source = open_model(path, store=store, factory="nets:net")
    exported = store.run(export_step(source, opset=13, factory="nets:net"), source)
    assert signature(exported).opset == 13
    parity = check_parity(source, exported, store=store, factory="nets:net")
    assert max(one.max_absolute for one in parity) < 1e-5
