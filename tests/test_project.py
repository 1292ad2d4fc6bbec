"""mlopt.toml: found beside the model, strict, and never able to trust itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlopt.errors import ConfigInvalid
from mlopt.project import PreprocessSpec, Project, find_project, read_project
from mlopt.signature import InputSpec

WHOLE = """
schema = 1
[model]
name = "net"
factory = "nets:build"
[inputs]
x = "float32[N,3,224,224]"
[inputs.state]
shape = ["N", 128]
dtype = "float32"
range = [-1, 1.5]
[inputs.sr]
value = 16000
[preprocess]
preset = "torchvision"
resize = 256
crop = [224, 224]
layout = "NCHW"
channels = "BGR"
mean = [0.5, 0.4, 0.3]
std = [0.1]
rotate = 180
[samples]
path = "images"
calibration = 64
seed = 7
label-offset = -1
classes = "names.txt"
[compile]
target = ["host", "./board.toml"]
profile = "mine/strict.toml"
recipes = ["int8-static", "own.toml"]
max-drop = "0.5%"
max-latency = "5ms"
max-memory = "200MB"
max-size = "2MB"
max-image-size = "150MB"
threads = 2
out = "built"
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "names.txt").write_text("tench\n\n goldfish \n")
    return tmp_path / "net.onnx"


def write(model: Path, text: str) -> Project:
    (model.parent / "mlopt.toml").write_text(text)
    return find_project(model)


def test_everything_is_read(model: Path) -> None:
    project = write(model, WHOLE)
    assert (project.root, project.file) == (model.parent, model.parent / "mlopt.toml")
    assert (project.model.name, project.model.factory) == ("net", "nets:build")
    assert project.inputs == {
        "x": InputSpec(shape=("N", 3, 224, 224), dtype="float32"),
        "state": InputSpec(shape=("N", 128), dtype="float32", range=(-1.0, 1.5)),
        "sr": InputSpec(value=16000.0),
    }
    assert project.preprocess == PreprocessSpec(
        preset="torchvision",
        resize=256,
        crop=(224, 224),
        layout="NCHW",
        channels="BGR",
        mean=(0.5, 0.4, 0.3),
        std=(0.1,),
        rotate=180,
    )
    assert project.samples.classes == ("tench", "goldfish")
    assert (project.samples.path, project.samples.seed, project.samples.label_offset) == ("images", 7, -1)
    assert project.compile.targets == ("host", str(model.parent / "board.toml"))
    assert project.compile.profile == str(model.parent / "mine" / "strict.toml")
    assert project.compile.recipes == ("int8-static", str(model.parent / "own.toml"))
    assert (project.compile.max_drop, project.compile.threads) == (0.005, 2)
    limits = (project.compile.max_latency, project.compile.max_memory, project.compile.max_size)
    assert (*limits, project.compile.max_image_size) == (0.005, 200 * 10**6, 2 * 10**6, 150 * 10**6)
    assert project.compile.out == model.parent / "built"


def test_without_a_file_nothing_is_said(model: Path) -> None:
    assert find_project(model) == Project(root=model.parent)


def test_a_saved_model_may_hold_its_file(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    (tmp_path / "mlopt.toml").write_text('[model]\nname = "outside"\n')
    assert find_project(saved).model.name == "outside"
    (saved / "mlopt.toml").write_text('[model]\nname = "inside"\n')
    assert find_project(saved).model.name == "inside"


def test_a_named_file_wins_over_the_one_beside(model: Path, tmp_path: Path) -> None:
    write(model, '[model]\nname = "beside"\n')
    other = tmp_path / "other"
    other.mkdir()
    (other / "mlopt.toml").write_text('[model]\nname = "other"\n')
    assert find_project(model, other).model.name == "other"
    assert find_project(model, other / "mlopt.toml").root == other
    with pytest.raises(ConfigInvalid, match="no such file"):
        find_project(model, tmp_path / "absent.toml")


@pytest.mark.parametrize("text", ["[model]\ntrust = true", "[model]\ntrust = false", "trust = true"])
def test_a_file_cannot_trust_itself(text: str, model: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        write(model, text)
    assert "travels with the model" in caught.value.what
    assert "--trust" in caught.value.next


@pytest.mark.parametrize(
    ("text", "what", "key"),
    [
        ("[modle]", "Did you mean 'model'?", "modle"),
        ('[model]\nfactry = "x:y"', "Did you mean 'factory'?", "model.factry"),
        ('[model]\nname = "../up"', "cannot be the name of a folder", "model"),
        ('[model]\nname = ""', "cannot be the name of a folder", "model"),
        ('[inputs]\nx = "float32[N"', "does not describe an input", "inputs.x"),
        ("[inputs]\nx = 3", "is a whole number", "inputs.x"),
        ('[inputs.x]\nshape = "N,3"', "this is a list", "inputs.x.shape"),
        ("[inputs.x]\nshape = [1.5]", "this is a whole number or a text", "inputs.x.shape[0]"),
        ("[inputs.x]\nrange = [1]", "needs 2", "inputs.x.range"),
        ('[preprocess]\npreset = "torch"', "Did you mean 'torchvision'?", "preprocess.preset"),
        ("[preprocess]\ncrop = 224", "this is a list", "preprocess.crop"),
        ("[preprocess]\ncrop = [0, 224]", "less than 1", "preprocess"),
        ("[preprocess]\nstd = [0.0]", "std holds 0", "preprocess"),
        ("[preprocess]\nmean = [0.5, 0.5]", "mean has 2 values", "preprocess"),
        ("[preprocess]\nrotate = 45", "45 is not known", "preprocess.rotate"),
        ('[samples]\nclasses = "absent.txt"', "cannot be read", "samples.classes"),
        ("[samples]\ncalibration = 0", "calibration is less than 1", "samples"),
        ('[compile]\nmax-drop = "lots"', "not a share", "compile.max-drop"),
        ("[compile]\nmax-drop = 2", "between 0 and 1", "compile.max-drop"),
        ("[compile]\nthreads = 0", "threads is less than 1", "compile"),
        ("[compile]\ntargets = ['host']", "Did you mean 'target'?", "compile.targets"),
    ],
)
def test_every_slip_names_its_key(text: str, what: str, key: str, model: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        write(model, text + "\n")
    assert what in caught.value.what
    assert caught.value.where == f"{model.parent / 'mlopt.toml'}: {key}"
    assert caught.value.next


def test_the_demo_is_read(root: Path) -> None:
    project = read_project(root / "demo" / "mlopt.toml")
    assert project.model.factory == "digits:net"
    assert len(project.samples.classes) == 10
    assert project.preprocess is not None
