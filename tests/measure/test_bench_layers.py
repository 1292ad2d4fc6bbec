"""`mlopt bench --layers`: what a person reads, and the same numbers as JSON that fits its schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import nets
import pytest
import walks
from onnx import TensorProto, helper

from mlopt.measure import json_schema


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers")
    nets.save(nets.conv_net(side=64), folder / "net.onnx")
    nets.save(nets.conv_net(side=64, width=8), folder / "small.onnx")
    walks.profile(folder)
    return folder


def test_layers_of_every_model_are_printed(place: Path) -> None:
    ended = walks.mlopt("bench", "net.onnx", "small.onnx", "-p", "./fast.toml", "--layers", "-q", cwd=place)
    assert ended.returncode == 0, ended.stderr
    for name in ("net.onnx", "small.onnx"):
        assert f"layers of {name} in onnxruntime: " in ended.stdout
        assert f"memory of {name}: " in ended.stdout
    assert "Conv + Relu" in ended.stdout
    assert "GOPS fp32" in ended.stdout
    assert all(len(line) <= 100 for line in ended.stdout.splitlines())


def test_a_model_that_its_runtime_computes_on_loading_has_no_layer(tmp_path: Path) -> None:
    """OpenVINO hands an input on as an output, and runs nothing."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
    nets.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "x.onnx")
    walks.profile(tmp_path)
    asked = ("bench", "x.onnx", "-p", "./fast.toml", "--layers", "--runtime", "openvino", "-q")
    ended = walks.mlopt(*asked, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "no times of layers of x.onnx: openvino runs no layer of it" in " ".join(ended.stdout.split())


def test_the_json_holds_them_and_fits_its_schema(place: Path) -> None:
    ended = walks.mlopt("bench", "net.onnx", "-p", "./fast.toml", "--layers", "--json", "-q", cwd=place)
    found = json.loads(ended.stdout)
    jsonschema.validate(found, json.loads(json_schema.FILE.read_text()))
    (model,) = found["models"]
    assert {"conv1", "conv2", "head"} <= {node for one in model["inside"]["layers"]["layers"] for node in one["nodes"]}
    plain = json.loads(walks.mlopt("bench", "net.onnx", "-p", "./fast.toml", "--json", "-q", cwd=place).stdout)
    assert plain["models"][0]["inside"] is None
