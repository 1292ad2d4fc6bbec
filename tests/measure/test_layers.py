"""Per-layer times of real models in real runtimes: every node in one layer, and the sum near the whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nets
import numpy as np
import onnx
import pytest
from onnx import helper

from mlopt.insight import Kernel, Layer, Profile
from mlopt.measure.layers import layers_of
from mlopt.measure.work import Graph
from mlopt.registry import load
from mlopt.runners.onnxruntime_profile import read
from mlopt.runners.runner import Profiled

RUNTIMES = ["onnxruntime", pytest.param("openvino", marks=pytest.mark.openvino)]


def profiled(
    model: onnx.ModelProto, runtime: str, tmp_path: Path, **feeds: np.ndarray
) -> tuple[Profile, tuple[Layer, ...], tuple[str, ...], Graph]:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    runner = load("mlopt.runners", runtime)(path, threads=1)
    assert isinstance(runner, Profiled)
    profile = runner.profile([feeds], count=20)
    graph = Graph.read(path, {name: value.shape for name, value in feeds.items()})
    return profile, *layers_of(profile.kernels, graph), graph


def picture(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("net", [nets.conv_net, nets.gated_net, nets.mobile_net])
def test_every_node_is_in_one_layer_or_named_as_without_time(runtime: str, net: object, tmp_path: Path) -> None:
    assert callable(net)
    _, layers, silent, graph = profiled(net(side=64), runtime, tmp_path, image=picture())
    held = Counter([*silent, *(node for layer in layers for node in layer.nodes)])
    assert set(held.values()) == {1}
    assert set(held) == {graph.label(number) for number in range(len(graph.nodes))}
    assert len(silent) < 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_layers_add_up_to_nearly_the_query(runtime: str, tmp_path: Path) -> None:
    profile, layers, _, _ = profiled(nets.conv_net(side=256, width=64), runtime, tmp_path, image=picture(256))
    assert 10 <= profile.queries <= 20  # OpenVINO leaves out those that were disturbed
    spent = sum(layer.seconds for layer in layers)
    assert 0.5 * profile.seconds < spent < 1.1 * profile.seconds
    longest = max(layers, key=lambda layer: layer.seconds)
    assert "conv2" in longest.nodes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_activation_runs_with_its_convolution(runtime: str, tmp_path: Path) -> None:
    _, layers, _, graph = profiled(nets.conv_net(side=64), runtime, tmp_path, image=picture())
    first = next(layer for layer in layers if "conv1" in layer.nodes)
    assert first.nodes == ("conv1", "relu1")
    assert first.operators == ("Conv", "Relu")
    assert first.arithmetic == "fp32"
    assert first.operations == (graph.operations(0) or 0) + (graph.operations(1) or 0)


def test_nodes_without_a_name_go_by_what_they_make(tmp_path: Path) -> None:
    model = nets.conv_net(side=64)
    for node in model.graph.node:
        node.name = ""
    _, layers, silent, _ = profiled(model, "onnxruntime", tmp_path, image=picture())
    assert {"c1", "r1", "logits"} <= {node for layer in layers for node in layer.nodes} | set(silent)


def test_a_branch_is_not_counted_twice(tmp_path: Path) -> None:
    profile, layers, _, _ = profiled(nets.branching_net(), "onnxruntime", tmp_path, x=np.ones((1, 64), np.float32))
    assert sum(layer.seconds for layer in layers) <= profile.seconds
    assert not any(node.startswith("add_") for layer in layers for node in layer.nodes)


def test_a_kernel_that_runs_inside_another_is_left_out() -> None:
    def event(name: str, ts: int, dur: int, cat: str = "Node") -> dict[str, object]:
        said = {"op_name": name, "input_type_shape": [{"float": [1]}]}
        return {
            "cat": cat,
            "name": f"{name}_kernel_time" if cat == "Node" else name,
            "ts": ts,
            "dur": dur,
            "args": said,
        }

    events = []
    for start in range(0, 5000, 1000):
        events += [event("model_run", start, 900, "Session"), event("If", start + 10, 500)]
        events += [event("Add", start + 20, 100), event("Relu", start + 600, 50)]
    profile = read(events, (), warm_up=3)
    assert [(kernel.name, round(kernel.seconds * 1e6)) for kernel in profile.kernels] == [("If", 500), ("Relu", 50)]
    assert profile.queries == 1  # the faster half of the two that are left
    assert round(profile.seconds * 1e6) == 900


def test_a_layout_after_a_convolution_takes_none_of_its_nodes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], name="conv"), helper.make_node("Relu", ["c"], ["y"], name="r")]
    built = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", 1, [1, 4, 6, 6])],
        [nets.weights("w", 4, 3, 3, 3)],
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    kernels = [
        Kernel("y_nchwc", "Conv", ("y_nchwc", "y"), "fp32", 1e-3),
        Kernel("ReorderOutput", "ReorderOutput", ("ReorderOutput", "y"), "fp32", 1e-4),
    ]
    layers, silent = layers_of(kernels, Graph.read(path, {}))
    assert [layer.nodes for layer in layers] == [("conv", "r"), ()]
    assert layers[1].operations is None
    assert silent == ()
