"""A model that gives back each input, one for each kind of tensor, and NVIDIA's clients asking it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mlopt.image.serving import describe_serving, encode_serving

# Of each input its datatype, ONNX's name for it, and values.
_KINDS = {
    "f": ("FP32", "FLOAT", np.array([[1.5, -2]], np.float32)),
    "h": ("FP16", "FLOAT16", np.array([[0.5, 7]], np.float16)),
    "d": ("FP64", "DOUBLE", np.array([[1e300, -1e-300]], np.float64)),
    "i": ("INT64", "INT64", np.array([[2**62, -(2**62)]], np.int64)),
    "l": ("UINT64", "UINT64", np.array([[2**64 - 1, 1]], np.uint64)),
    "u": ("UINT8", "UINT8", np.array([[0, 255]], np.uint8)),
    "b": ("BOOL", "BOOL", np.array([[True, False]])),
    "s": ("BYTES", "STRING", np.array([["ä", ""]], object)),
}


def kinds_folder(folder: Path) -> Path:
    """The model's folder, made here."""
    folder.mkdir()
    inputs, outputs = (
        [
            helper.make_tensor_value_info(name + end, getattr(TensorProto, kind), ["N", 2])
            for name, (_, kind, _) in _KINDS.items()
        ]
        for end in ("", "_out")
    )
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in _KINDS]
    graph = helper.make_graph(nodes, "kinds", inputs, outputs)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    (folder / "serving.json").write_bytes(encode_serving(describe_serving(folder / "model.onnx", name="kinds")))
    return folder


def check_every_kind(client: Any, triton: Any) -> None:
    """That each comes back as it was; `triton` is the client's module, of HTTP or of gRPC."""
    inputs = []
    for name, (datatype, _, value) in _KINDS.items():
        inputs.append(triton.InferInput(name, list(value.shape), datatype))
        inputs[-1].set_data_from_numpy(value)
    result = client.infer("kinds", inputs)
    for name, (datatype, _, value) in _KINDS.items():
        got = result.as_numpy(f"{name}_out")
        if datatype == "BYTES":
            assert [text.decode() for text in got.ravel()] == value.ravel().tolist()
        else:
            assert got.dtype == value.dtype
            np.testing.assert_array_equal(got, value)
