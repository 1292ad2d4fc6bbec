"""Open Inference Protocol v2: what a request may say, how an answer is written, as JSON or with tensors in bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson

from mlopt.serve.call import Answer, Call
from mlopt.serve.model import Serving
from mlopt.serve.tensors import NUMPY_OF, Rejected, Tensor, declared_shape, from_bytes, from_json, to_bytes, to_json

# How many bytes of the body are JSON; the rest are the tensors that say `binary_data_size`, one after another.
HEADER_LENGTH: Final = "Inference-Header-Content-Length"
SERVER_VERSION: Final = "0.1.0"
EXTENSIONS: Final = ("binary_tensor_data",)
_ELSEWHERE: Final = ("shared_memory_region", "classification")


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A checked request: arrays by input name, which outputs were asked for in that order, and which as bytes."""

    id: str | None
    feeds: Mapping[str, np.ndarray]
    outputs: tuple[str, ...]
    binary: frozenset[str]


def read_infer(body: bytes, header: str | None, serving: Serving) -> Call:
    """A request to infer, over REST. Raises `Rejected`."""
    asked = parse_infer(body, header=header, inputs=serving.inputs, outputs=serving.outputs)
    return Call(asked.feeds, asked.outputs, lambda arrays, spent: _answer(arrays, serving, asked))


def parse_infer(
    body: bytes, *, header: str | None, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> InferRequest:
    """Check a request against the model's inputs. `header` is the value of `HEADER_LENGTH`, None where it was not sent.

    Raises `Rejected` that names what is wrong.
    """
    length = _header_length(header, body)
    if length == 0:
        return _raw(body, inputs, outputs)
    message = json_object(body if length is None else body[:length])
    rest = memoryview(body)[len(body) if length is None else length :]
    return parse_message(message, rest, inputs=inputs, outputs=outputs)


def parse_message(
    message: Mapping[str, Any], rest: memoryview, *, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> InferRequest:
    """Check the JSON of a request, with the bytes of its tensors behind it. Raises `Rejected`."""
    id = message.get("id")
    if id is not None and not isinstance(id, str):
        raise Rejected("id must be a string")
    wanted, binary = _wanted(message, outputs)
    return InferRequest(id, _feeds(message.get("inputs"), inputs, rest), wanted, binary)


def encode_infer(
    arrays: Mapping[str, np.ndarray], *, model: str, version: str, outputs: Sequence[Tensor], asked: InferRequest
) -> tuple[bytes, int | None]:
    """The answer, and how many bytes of it are JSON where tensors in bytes follow (None: it is all JSON).

    JSON data are flat and row-major. What is not finite becomes null: JSON has no NaN.
    """
    datatypes = {tensor.name: tensor.datatype for tensor in outputs}
    raw: list[bytes] = []
    entries = []
    for name, array in arrays.items():
        entry: dict[str, Any] = {"name": name, "datatype": datatypes[name], "shape": list(array.shape)}
        if name in asked.binary:
            raw.append(to_bytes(array))
            entry["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            entry["data"] = to_json(array.reshape(-1))
        entries.append(entry)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if asked.id is not None:
        answer["id"] = asked.id
    head = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *raw]), len(head)) if raw else (head, None)


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object that a body must be. Raises `Rejected`."""
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(f"the body is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Rejected("the body must be a JSON object")
    return message


def _answer(arrays: Mapping[str, np.ndarray], serving: Serving, asked: InferRequest) -> Answer:
    body, header = encode_infer(
        arrays, model=serving.name, version=serving.version, outputs=serving.outputs, asked=asked
    )
    if header is None:
        return Answer(body)
    return Answer(body, "application/octet-stream", {HEADER_LENGTH: str(header)})


def _header_length(header: str | None, body: bytes) -> int | None:
    if header is None:
        return None
    if not (header.isascii() and header.isdigit() and len(header) < 12 and int(header) <= len(body)):
        raise Rejected(f"{HEADER_LENGTH} must be a whole number, at most the length of the body")
    return int(header)


def _raw(body: bytes, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> InferRequest:
    """A body that is nothing but the one tensor: the first free dimension is as long as the bytes make it."""
    if len(inputs) != 1 or inputs[0].datatype == "BYTES":
        raise Rejected("a body without a JSON header is for models with one input of numbers")
    (wanted,) = inputs
    row = math.prod(abs(size) for size in wanted.shape) * np.dtype(NUMPY_OF[wanted.datatype]).itemsize
    count, free = len(body) // row, wanted.shape.index(-1) if -1 in wanted.shape else None
    shape = tuple(max(count, 1) if place == free else abs(size) for place, size in enumerate(wanted.shape))
    names = tuple(tensor.name for tensor in outputs)
    return InferRequest(None, {wanted.name: from_bytes(memoryview(body), wanted, shape=shape)}, names, frozenset(names))


def _parameters(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("parameters", {})
    if not isinstance(found, dict):
        raise Rejected("parameters must be an object")
    for name in _ELSEWHERE:
        if found.get(name):
            raise Rejected(f"this server does not know the parameter {name}; it has {', '.join(EXTENSIONS)}")
    return found


def _wanted(message: Mapping[str, Any], outputs: Sequence[Tensor]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Names of the outputs that are asked for, in order, and those of them that are to come as bytes."""
    names, asked = tuple(tensor.name for tensor in outputs), message.get("outputs")
    as_bytes = _parameters(message).get("binary_data_output", False) is True
    if asked is None or asked == []:
        return names, frozenset(names if as_bytes else ())
    if not isinstance(asked, list) or not all(isinstance(entry, dict) for entry in asked):
        raise Rejected("outputs must be a list of objects with a name")
    wanted = [entry.get("name") for entry in asked]
    for name in wanted:
        if not isinstance(name, str) or name not in names:
            raise Rejected(f"there is no output {name!r}; the outputs are {', '.join(names)}")
    if len(set(wanted)) != len(wanted):
        raise Rejected("an output is asked for twice")
    binary = {entry["name"] for entry in asked if _parameters(entry).get("binary_data", as_bytes) is True}
    return tuple(wanted), frozenset(binary)


def _feeds(given: Any, inputs: Sequence[Tensor], rest: memoryview) -> dict[str, np.ndarray]:
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
        size = _binary_size(entry, len(rest))
        feeds[name] = _array(entry, expected[name], None if size is None else rest[:size])
        rest = rest[size or 0 :]
    if missing := [name for name in expected if name not in feeds]:
        raise Rejected(f"input {missing[0]!r} is missing")
    if len(rest):
        raise Rejected(f"{len(rest)} bytes after the last tensor belong to none")
    return feeds


def _binary_size(entry: Mapping[str, Any], left: int) -> int | None:
    size = _parameters(entry).get("binary_data_size")
    if size is None:
        return None
    if type(size) is not int or not 0 <= size <= left:
        raise Rejected(f"binary_data_size is {size!r}; {left} bytes are left of the body")
    return size


def _array(entry: Mapping[str, Any], wanted: Tensor, raw: memoryview | None) -> np.ndarray:
    if entry.get("datatype") != wanted.datatype:
        raise Rejected(f"input {wanted.name!r} has datatype {entry.get('datatype')!r}; it must be {wanted.datatype}")
    shape, data = declared_shape(entry.get("shape"), wanted), entry.get("data")
    if raw is not None:
        if data is not None:
            raise Rejected(f"input {wanted.name!r} has both data and binary_data_size")
        return from_bytes(raw, wanted, shape=shape)
    if not isinstance(data, list):
        raise Rejected(f"input {wanted.name!r} has no data (a list, flat or nested)")
    return from_json(data, wanted, shape=shape)
