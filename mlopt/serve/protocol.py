"""Open Inference Protocol v2 over JSON: what a request may say, and how an answer is written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

NUMPY_OF: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    "BYTES": "object",
}

# What numpy makes of the JSON values (its dtype.kind) that each kind of tensor accepts.
_ACCEPTED: Final[Mapping[str, str]] = {"b": "b", "u": "iu", "i": "iu", "f": "iuf", "O": "U"}


class Rejected(Exception):
    """A request that is refused: the HTTP status and a sentence for the client. Never a fault of the server."""

    def __init__(self, message: str, *, status: int = 400, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.retry_after = message, status, retry_after


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, v2 datatype and shape of an input or output; -1 is a dimension that the request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked request: arrays by input name, and which outputs were asked for, in that order."""

    id: str | None
    feeds: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]


def parse_infer(body: bytes, *, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> InferRequest:
    """Check a request body against the model's inputs. Raises `Rejected` that names what is wrong."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Rejected("the body must be a JSON object")
    id = message.get("id")
    if id is not None and not isinstance(id, str):
        raise Rejected("id must be a string")
    return InferRequest(id, _feeds(message.get("inputs"), inputs), _wanted(message.get("outputs"), outputs))


def encode_infer(
    arrays: Mapping[str, np.ndarray], *, model: str, version: str, outputs: Sequence[Tensor], id: str | None
) -> bytes:
    """The answer as JSON; data are flat, row-major. What is not finite becomes null: JSON has no NaN."""
    datatypes = {tensor.name: tensor.datatype for tensor in outputs}
    answer: dict[str, Any] = {
        "model_name": model,
        "model_version": version,
        "outputs": [
            {"name": name, "datatype": datatypes[name], "shape": list(array.shape), "data": _flat(array)}
            for name, array in arrays.items()
        ],
    }
    if id is not None:
        answer["id"] = id
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _flat(array: np.ndarray) -> Any:
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype.kind in "OUS":
        return [value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value) for value in flat.tolist()]
    return flat


def _wanted(asked: Any, outputs: Sequence[Tensor]) -> tuple[str, ...]:
    names = tuple(tensor.name for tensor in outputs)
    if asked is None or asked == []:
        return names
    if not isinstance(asked, list) or not all(isinstance(entry, dict) for entry in asked):
        raise Rejected("outputs must be a list of objects with a name")
    wanted = [entry.get("name") for entry in asked]
    for name in wanted:
        if not isinstance(name, str) or name not in names:
            raise Rejected(f"there is no output {name!r}; the outputs are {', '.join(names)}")
    if len(set(wanted)) != len(wanted):
        raise Rejected("an output is asked for twice")
    return tuple(wanted)


def _feeds(given: Any, inputs: Sequence[Tensor]) -> dict[str, np.ndarray]:
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise Rejected("inputs must be a list of tensors: name, shape, datatype, data")
    expected = {tensor.name: tensor for tensor in inputs}
    feeds: dict[str, np.ndarray] = {}
    for entry in given:
        name = entry.get("name")
        if not isinstance(name, str) or name not in expected:
            raise Rejected(f"there is no input {name!r}; the inputs are {', '.join(expected)}")
        if name in feeds:
            raise Rejected(f"input {name!r} is given twice")
        feeds[name] = _array(entry, expected[name])
    if missing := [name for name in expected if name not in feeds]:
        raise Rejected(f"input {missing[0]!r} is missing")
    return feeds


def _array(entry: Mapping[str, Any], wanted: Tensor) -> np.ndarray:
    if entry.get("datatype") != wanted.datatype:
        raise Rejected(f"input {wanted.name!r} has datatype {entry.get('datatype')!r}; it must be {wanted.datatype}")
    shape = _shape(entry.get("shape"), wanted)
    data = entry.get("data")
    if not isinstance(data, list):
        raise Rejected(f"input {wanted.name!r} has no data (a list, flat or nested)")
    try:
        array = np.array(data)
    except (ValueError, OverflowError) as error:
        raise Rejected(f"the data of input {wanted.name!r} are not a regular array: {error}") from error
    if array.size != math.prod(shape) or (array.ndim != 1 and array.shape != shape):
        raise Rejected(
            f"input {wanted.name!r} has {array.size} values in shape {list(array.shape)}; "
            f"shape {list(shape)} needs {math.prod(shape)}"
        )
    return _cast(array, wanted).reshape(shape)


def _shape(shape: Any, wanted: Tensor) -> tuple[int, ...]:
    if not isinstance(shape, list) or not all(type(size) is int and 1 <= size < 2**31 for size in shape):
        raise Rejected(f"the shape of input {wanted.name!r} must be a list of whole numbers above 0")
    fits = len(shape) == len(wanted.shape) and all(
        want in (-1, have) for have, want in zip(shape, wanted.shape, strict=True)
    )
    if not fits:
        raise Rejected(f"input {wanted.name!r} has shape {shape}; it must be {list(wanted.shape)} (-1: any)")
    return tuple(shape)


def _cast(array: np.ndarray, wanted: Tensor) -> np.ndarray:
    dtype = np.dtype(NUMPY_OF[wanted.datatype])
    if array.dtype.kind not in _ACCEPTED[dtype.kind]:
        raise Rejected(f"the data of input {wanted.name!r} are not all {wanted.datatype}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise Rejected(f"the data of input {wanted.name!r} do not fit into {wanted.datatype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype)
