"""Two models that are asked: one that costs next to nothing, and one that costs milliseconds."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


@dataclass(frozen=True, slots=True)
class Case:
    """`limit`: seconds that the 99th percentile may take where servers are compared by their rate."""

    name: str
    what: str
    size: int
    channels: tuple[int, ...]
    limit: float

    @property
    def body(self) -> bytes:
        """One request, which every server takes: Open Inference Protocol v2 as JSON."""
        shape = [1, 3, self.size, self.size]
        data = np.random.default_rng(0).random(shape, dtype=np.float32).ravel().round(4).tolist()
        return json.dumps({"inputs": [{"name": "pixels", "shape": shape, "datatype": "FP32", "data": data}]}).encode()


CASES = (
    Case("small", "192 numbers, a model of microseconds", 8, (), 0.020),
    Case("picture", "3 x 64 x 64 numbers in 249 kB of JSON, a net of four convolutions", 64, (16, 32, 64, 64), 0.200),
)


def write_model(case: Case, folder: Path) -> Path:
    """`model.onnx` and `serving.json` in `folder`; weights are random, from a seed."""
    from mlopt.image.serving import describe_serving, encode_serving

    chance, weights, nodes, last, width = np.random.default_rng(0), [], [], "pixels", 3
    for place, channels in enumerate(case.channels):
        weights.append(_weight(chance, f"w{place}", (channels, width, 3, 3)))
        convolution: dict[str, Any] = {"pads": [1, 1, 1, 1], "strides": [2, 2] if place else [1, 1]}
        nodes.append(helper.make_node("Conv", [last, f"w{place}"], [f"c{place}"], **convolution))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"]))
        last, width = f"r{place}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "head"], ["scores"]))
    weights.append(_weight(chance, "head", (width, 10)))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        case.name,
        [info("pixels", TensorProto.FLOAT, ["N", 3, case.size, case.size])],
        [info("scores", TensorProto.FLOAT, ["N", 10])],
        weights,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    (folder / "serving.json").write_bytes(encode_serving(describe_serving(path, name="model", threads=1)))
    return path


def raw_inference(case: Case, model: Path, *, count: int) -> list[float]:
    """Seconds of inferences alone, sorted: what a server adds to."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feeds = {"pixels": np.random.default_rng(0).random((1, 3, case.size, case.size), dtype=np.float32)}
    for _ in range(20):
        session.run(None, feeds)
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        session.run(None, feeds)
        taken.append(time.perf_counter() - began)
    return sorted(taken)


def _weight(chance: np.random.Generator, name: str, shape: tuple[int, ...]) -> onnx.TensorProto:
    scale = (2 / np.prod(shape[1:])) ** 0.5
    return numpy_helper.from_array((chance.standard_normal(shape) * scale).astype(np.float32), name)
