"""What the tests of the native server share: it and the Python server side by side, and how they are asked."""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parent))

from serving_process import process, wait_ready

from mlopt.image.run import free_port
from mlopt.image.serving import describe_serving, encode_serving

QUIET = ("--log-level", "error")
LENGTH = "Inference-Header-Content-Length"
PATH = "/v2/models/colours/infer"
TENSOR: dict[str, Any] = {"name": "pixels", "shape": [1, 3, 8, 8], "datatype": "FP32", "data": [0.5] * 192}
_NUMBERS = {
    "BOOL": TensorProto.BOOL,
    **{f"INT{bits}": getattr(TensorProto, f"INT{bits}") for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": getattr(TensorProto, f"UINT{bits}") for bits in (8, 16, 32, 64)},
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def write_typed(folder: Path) -> Path:
    """Every type that the protocol carries goes through as it is."""
    values = [
        [helper.make_tensor_value_info(f"{name}_{way}", kind, ["N", 2]) for name, kind in _NUMBERS.items()]
        for way in ("in", "out")
    ]
    nodes = [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in _NUMBERS]
    graph = helper.make_graph(nodes, "typed", *values)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "model.onnx"
    )
    serving = describe_serving(folder / "model.onnx", name="typed")
    (folder / "serving.json").write_bytes(encode_serving(serving))
    return folder


@contextmanager
def both(native: Sequence[str], folder: Path, *options: str) -> Iterator[tuple[int, int]]:
    """The ports of the native server and the Python one."""
    ports = free_port(), free_port()
    with (
        process(folder, port=ports[0], options=(*QUIET, *options), command=native) as first,
        process(folder, port=ports[1], options=(*QUIET, *options)) as second,
    ):
        wait_ready(ports[0], first)
        wait_ready(ports[1], second)
        yield ports


def asked(port: int, path: str, body: bytes, **headers: str) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    found = reply.status, reply.read(), reply.getheader(LENGTH)
    connection.close()
    return found


def infer(ports: tuple[int, int], inputs: list[dict[str, Any]], name: str, **more: Any) -> list[dict[str, Any]]:
    """The answers of both; each was a 200."""
    answers = []
    for port in ports:
        code, body, _ = asked(port, f"/v2/models/{name}/infer", json.dumps({"inputs": inputs, **more}).encode())
        assert code == 200, body
        answers.append(json.loads(body))
    return answers
