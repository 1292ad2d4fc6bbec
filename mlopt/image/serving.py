"""serving.json: what the server in the image must know about the model, read from the model itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mlopt.errors import UnsupportedModel

SCHEMA: Final = 1

_DATATYPES: Final[Mapping[str, str]] = {
    "BOOL": "BOOL",
    "UINT8": "UINT8",
    "UINT16": "UINT16",
    "UINT32": "UINT32",
    "UINT64": "UINT64",
    "INT8": "INT8",
    "INT16": "INT16",
    "INT32": "INT32",
    "INT64": "INT64",
    "FLOAT16": "FP16",
    "FLOAT": "FP32",
    "DOUBLE": "FP64",
    "STRING": "BYTES",
}


def describe_serving(
    model: Path,
    *,
    name: str,
    version: str = "1",
    preprocess: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    threads: int | None = None,
    runtime: str = "onnxruntime",
    told: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of serving.json for an ONNX file.

    `preprocess` is `Preprocess.as_json()`; with it and one input the server shows the page where a picture
    is dropped. `threads` is None for as many as the container may use.
    `told` is what mlopt.toml says to the server (`batching`, `server`). Raises `UnsupportedModel` for an
    input or output that the Open Inference Protocol cannot carry (bfloat16, sequences …).
    """
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    constants = {initializer.name for initializer in graph.initializer}
    return {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "file": model.name,
        "task": task,
        "inputs": [_tensor(value, model) for value in graph.input if value.name not in constants],
        "outputs": [_tensor(value, model) for value in graph.output],
        "preprocess": dict(preprocess) if preprocess is not None else None,
        "classes": list(classes) if classes is not None else None,
        "threads": threads,
        "runtime": runtime,
        **(told or {}),
    }


def encode_serving(serving: Mapping[str, Any]) -> bytes:
    """The bytes of serving.json: the same for the same content."""
    return (json.dumps(serving, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def grpc_ports(serving: Mapping[str, Any]) -> tuple[int, ...]:
    """Where the server of this serving.json serves gRPC, if it does."""
    port = serving.get("server", {}).get("grpc-port")
    return () if port is None else (int(port),)


def extras_of(serving: Mapping[str, Any]) -> tuple[str, ...]:
    """The extras of docker/python.toml that its image needs."""
    return ("grpc",) if grpc_ports(serving) else ()


def _tensor(value: Any, model: Path) -> dict[str, Any]:
    import onnx

    kind = value.type.WhichOneof("value")
    element = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) if kind == "tensor_type" else kind
    if element not in _DATATYPES:
        raise UnsupportedModel(
            f"{value.name!r} is of type {element}, which the Open Inference Protocol cannot carry.",
            where=str(model),
            next="cast it to a plain tensor (float32, int64 …) in the model",
        )
    shape = [dim.dim_value if dim.dim_value > 0 else -1 for dim in value.type.tensor_type.shape.dim]
    return {"name": value.name, "datatype": _DATATYPES[element], "shape": shape}
