"""The predict API of TensorFlow Serving over REST, so that its clients move by changing the address alone."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from mlopt.serve.call import Answer, Call
from mlopt.serve.model import Serving
from mlopt.serve.protocol import json_object
from mlopt.serve.tensors import Rejected, Tensor, from_json, to_json


def read_predict(body: bytes, serving: Serving) -> Call:
    """A request in rows (`instances`) or in columns (`inputs`). Raises `Rejected`."""
    message = json_object(body)
    if message.get("signature_name") not in (None, "", "serving_default"):
        raise Rejected("the model has one signature, serving_default")
    if ("instances" in message) == ("inputs" in message):
        raise Rejected("give either instances (a list of rows) or inputs (columns)")
    outputs = tuple(tensor.name for tensor in serving.outputs)
    if "instances" in message:
        feeds = _rows(message["instances"], serving.inputs)
        count = len(message["instances"])
        return Call(feeds, outputs, lambda arrays, spent: Answer(_in_rows(arrays, count)))
    return Call(_columns(message["inputs"], serving.inputs), outputs, lambda arrays, spent: Answer(_in_columns(arrays)))


def status(ready: Mapping[str, bool]) -> dict[str, Any]:
    """The body of GET /v1/models/{m}, for its versions."""
    fine = {"error_code": "OK", "error_message": ""}
    found = [(version, "AVAILABLE" if is_ready else "LOADING") for version, is_ready in ready.items()]
    return {"model_version_status": [{"version": name, "state": state, "status": fine} for name, state in found]}


def _rows(instances: Any, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    if not isinstance(instances, list) or not instances:
        raise Rejected("instances must be a list with at least one row")
    names = [tensor.name for tensor in inputs]
    named = [isinstance(row, dict) and "b64" not in row for row in instances]
    if not any(named) and len(names) == 1:
        return {names[0]: _array(instances, inputs[0])}
    for place, (row, is_named) in enumerate(zip(instances, named, strict=True)):
        if not is_named or sorted(row) != sorted(names):
            raise Rejected(f"row {place} of instances must be an object with {', '.join(names)}")
    return {tensor.name: _array([row[tensor.name] for row in instances], tensor) for tensor in inputs}


def _columns(given: Any, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    names = [tensor.name for tensor in inputs]
    if isinstance(given, dict) and "b64" not in given:
        if sorted(given) != sorted(names):
            raise Rejected(f"inputs must be an object with {', '.join(names)}")
        return {tensor.name: _array(given[tensor.name], tensor) for tensor in inputs}
    if len(names) != 1:
        raise Rejected(f"inputs must be an object with {', '.join(names)}")
    return {names[0]: _array(given, inputs[0])}


def _array(value: Any, wanted: Tensor) -> np.ndarray:
    if wanted.datatype == "BYTES":
        value = _decoded(value, depth=len(wanted.shape))
    return from_json(value, wanted)


def _decoded(value: Any, *, depth: int) -> Any:
    """With the bytes that are written as `{"b64": "…"}`, as deep as the tensor goes."""
    if isinstance(value, dict):
        if list(value) != ["b64"] or not isinstance(value["b64"], str):
            raise Rejected('bytes are written as {"b64": "…"}')
        try:
            return b64decode(value["b64"], validate=True)
        except ValueError as error:
            raise Rejected(f"b64 is not base64: {error}") from error
    if isinstance(value, list) and depth:
        return [_decoded(part, depth=depth - 1) for part in value]
    return value


def _in_rows(arrays: Mapping[str, np.ndarray], count: int) -> bytes:
    for name, array in arrays.items():
        if array.ndim == 0 or array.shape[0] != count:
            raise Rejected(f"output {name!r} has shape {list(array.shape)}, no row for each instance: ask with inputs")
    columns = {name: _values(name, array) for name, array in arrays.items()}
    if len(columns) == 1:
        return _dumped({"predictions": next(iter(columns.values()))})
    return _dumped({"predictions": [{name: column[row] for name, column in columns.items()} for row in range(count)]})


def _in_columns(arrays: Mapping[str, np.ndarray]) -> bytes:
    columns = {name: _values(name, array) for name, array in arrays.items()}
    return _dumped({"outputs": next(iter(columns.values())) if len(columns) == 1 else columns})


def _values(name: str, array: np.ndarray) -> Any:
    """As TensorFlow Serving writes them: outputs whose name ends in _bytes are base64."""
    if array.dtype.kind in "OUS" and name.endswith("_bytes"):
        flat = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
        encoded = np.empty(len(flat), object)
        encoded[:] = [{"b64": b64encode(value).decode()} for value in flat]
        return encoded.reshape(array.shape).tolist()
    return to_json(array)


def _dumped(answer: Any) -> bytes:
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
