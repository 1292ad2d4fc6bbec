"""`mlopt bench --layers`: what a person reads, and the same numbers as JSON that fits its schema."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import nets
import pytest
import walks

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


def test_the_json_holds_them_and_fits_its_schema(place: Path) -> None:
    ended = walks.mlopt("bench", "net.onnx", "-p", "./fast.toml", "--layers", "--json", "-q", cwd=place)
    found = json.loads(ended.stdout)
    jsonschema.validate(found, json.loads(json_schema.FILE.read_text()))
    (model,) = found["models"]
    assert {"conv1", "conv2", "head"} <= {node for one in model["inside"]["layers"]["layers"] for node in one["nodes"]}
    plain = json.loads(walks.mlopt("bench", "net.onnx", "-p", "./fast.toml", "--json", "-q", cwd=place).stdout)
    assert plain["models"][0]["inside"] is None
