"""Which convolutions at the input stay in floating point."""

from __future__ import annotations

from pathlib import Path

import onnx
from nets import conv_net, matmul_net, mobile_net
from trials import calibration, run, source

from mlopt.onnx_file import notes_in
from mlopt.precision.head import short_head
from mlopt.steps.quantize_static import QuantizeStatic
from mlopt.steps.quantizer import prepared
from mlopt.steps.sensitivity import groups_to_decide

HEAD = ["conv0", "conv1", "conv2", "conv3", "conv4", "conv5"]


def test_a_mobile_net_keeps_its_short_convolutions_until_the_first_long_one() -> None:
    graph = mobile_net().graph
    head = short_head(graph, 32)
    assert [name for name in head if name.startswith("conv")] == HEAD
    assert head[-1] == "relu5", "what follows belongs to it, up to where integers begin"
    assert [name for name in short_head(graph, 16) if name.startswith("conv")] == [], "the stem has 27 terms"
    assert [name for name in short_head(graph, 28) if name.startswith("conv")] == HEAD


def test_a_single_short_convolution_and_other_nets_keep_none() -> None:
    assert short_head(conv_net().graph, 32) == ()
    assert short_head(matmul_net(width=16).graph, 32) == ()


def test_what_computes_from_a_long_product_is_no_head() -> None:
    model = mobile_net()
    for node in model.graph.node:
        if node.name == "conv5":
            node.input[0] = "r0"  # a branch: still short all the way
            node.input[1] = "w1"
            node.attribute[1].i = 8
    assert "conv5" in short_head(model.graph, 32)
    for node in model.graph.node:
        if node.name == "conv1":
            node.input[0] = "unknown"
    assert "conv1" not in short_head(model.graph, 32)


def test_the_steps_keep_the_head_and_say_so(tmp_path: Path) -> None:
    model = mobile_net()
    base = source(tmp_path / "m", model)
    samples = calibration(tmp_path, model)
    made = run(QuantizeStatic(samples, shortest_dot=32), base, tmp_path / "q")
    (note,) = notes_in(made.main)
    assert note.startswith("6 convolutions at the input stay in floating point")
    assert "conv0, conv1" in note
    graph = onnx.load(str(made.main)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    converted = {
        node.name: makers.get(node.input[0]) == "DequantizeLinear" for node in graph.node if "conv" in node.name
    }
    assert [name for name in HEAD if converted.get(name)] == []
    assert converted["conv6"]
    everything = run(QuantizeStatic(samples), base, tmp_path / "all")
    assert everything.bytes < made.bytes
    with prepared(base, optimize=True) as ready:
        groups = groups_to_decide(ready.graph, QuantizeStatic(samples, shortest_dot=32).qdq)
    assert [one.name for one in groups] == ["conv6", "head"], "nothing else is left to decide"
