"""What stands in an ONNX file, told without running it."""

from __future__ import annotations

from pathlib import Path

import nets

from mlopt.onnx_file import note, work_of
from mlopt.serve.openvino import PRECISION


def test_the_work_of_a_model_is_its_operators_and_the_shapes_of_its_weights(tmp_path: Path) -> None:
    model = nets.conv_net()
    work = work_of(nets.save(model, tmp_path / "a.onnx"))
    for tensor in model.graph.initializer:
        tensor.CopyFrom(nets.weights(tensor.name, *tensor.dims, seed=1))
    assert work_of(nets.save(model, tmp_path / "b.onnx")) == work, "other numbers are no other work"
    for node in model.graph.node:
        node.name = ""
    assert work_of(nets.save(model, tmp_path / "c.onnx")) == work
    assert work_of(nets.save(nets.conv_net(width=24), tmp_path / "d.onnx")) != work
    model.metadata_props.add(key=PRECISION, value="bf16")
    assert work_of(nets.save(model, tmp_path / "e.onnx")) != work, "the same graph, by other kernels"
    del model.metadata_props[:]
    note(model, ["what was decided"])
    assert work_of(nets.save(model, tmp_path / "f.onnx")) == work
    model.graph.node[1].op_type = "Elu"
    assert work_of(nets.save(model, tmp_path / "g.onnx")) != work
