"""A .tflite file as a model of mlopt's: an ONNX file that says what goes in and out, with that file as its weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from mlopt.onnx_file import load_graph, note
from mlopt.tflite.write import Written, write_tflite

DOMAIN: Final = "mlopt"
OPERATOR: Final = "LiteRT"
FILE: Final = "model.tflite"


def save_wrapped(source: Path, into: Path) -> None:
    """Write `model.tflite` of the ONNX file at `source` into a folder, and `model.onnx` beside it: one node, which
    keeps the inputs and outputs of the source and names the .tflite file as external data. So all that reads, moves,
    counts or compares models does with it what it does with any. Raises `UnsupportedModel`."""
    written = write_tflite(source)
    (into / FILE).write_bytes(written.data)
    (into / "model.onnx").write_bytes(_wrapper(load_graph(source), written).SerializeToString(deterministic=True))


def wrapped(model: Path) -> Path | None:
    """The .tflite file of such a model; None for any other ONNX file. Raises `ModelUnreadable`."""
    node = load_graph(model).graph.node[0]
    return model.parent / FILE if (node.domain, node.op_type) == (DOMAIN, OPERATOR) else None


def _wrapper(source: Any, written: Written) -> Any:
    import onnx

    weights = onnx.TensorProto(name=FILE, data_type=onnx.TensorProto.UINT8, dims=[len(written.data)])
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", FILE), ("offset", "0"), ("length", str(len(written.data)))):
        weights.external_data.add(key=key, value=value)
    held = {tensor.name for tensor in source.graph.initializer}
    inputs = [value for value in source.graph.input if value.name not in held]
    outputs = [value.name for value in source.graph.output]
    # By its digest two files that compute something else are told apart without being read.
    digest = hashlib.sha256(written.data).hexdigest()
    read = [*(value.name for value in inputs), FILE]
    node = onnx.helper.make_node(OPERATOR, read, outputs, name="litert", domain=DOMAIN, sha256=digest)
    graph = onnx.helper.make_graph([node], source.graph.name, inputs, source.graph.output, [weights])
    opsets = [*source.opset_import, onnx.helper.make_opsetid(DOMAIN, 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=source.ir_version)
    note(model, _notes(written))
    return model


def _notes(written: Written) -> list[str]:
    """What a report says where some of the products with weights compute in integers and some do not."""
    if not written.integer or not written.floating:
        return []
    named = ", ".join(written.floating[:6]) + (" …" if len(written.floating) > 6 else "")
    total = len(written.integer) + len(written.floating)
    return [f"{len(written.floating)} of {total} products with weights compute in float32 in LiteRT: {named}"]
