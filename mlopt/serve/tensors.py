"""Tensors as clients send and get them: checked against what the model declares, from JSON values or from bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np

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
_ACCEPTED: Final[Mapping[str, str]] = {"b": "b", "u": "iu", "i": "iu", "f": "iuf"}
_TOGETHER: Final = 1 << 16  # numbers that become an argument each
_LENGTH: Final = 4  # bytes before each element of a BYTES tensor
_LONGEST: Final = 600  # of a sentence: gRPC's clients take 8 KiB of head, and a sign may be 12 bytes there


class Rejected(Exception):
    """A request that is refused: the HTTP status and a sentence for the client. Never a fault of the server.

    `busy` where there are too many requests, which is not why every 503 is one.
    """

    def __init__(self, message: str, *, status: int = 400, retry_after: int | None = None, busy: bool = False) -> None:
        if len(message) > _LONGEST:  # it repeats what the client sent
            message = message[: _LONGEST - 1] + "…"
        super().__init__(message)
        self.message, self.status, self.retry_after, self.busy = message, status, retry_after, busy


@dataclass(frozen=True, slots=True)
class Tensor:
    """Name, v2 datatype and shape of an input or output; -1 is a dimension that the request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


def declared_shape(shape: Any, wanted: Tensor) -> tuple[int, ...]:
    """The shape that a client declares. Raises `Rejected` where the model does not take it."""
    if not isinstance(shape, list) or not all(type(size) is int and 1 <= size < 2**31 for size in shape):
        raise Rejected(f"the shape of input {wanted.name!r} must be a list of whole numbers above 0")
    if not _fits(shape, wanted):
        raise Rejected(f"input {wanted.name!r} has shape {shape}; it must be {list(wanted.shape)} (-1: any)")
    return tuple(shape)


def from_json(data: Any, wanted: Tensor, *, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """An array from JSON values: of the declared shape, flat or nested; or, without one, as they are nested."""
    flat, nested = _flattened(data if isinstance(data, list) else [data], wanted)
    if not isinstance(data, list):
        nested = ()
    if shape is None:
        if 0 in nested or not _fits(nested, wanted):
            raise Rejected(f"input {wanted.name!r} has shape {list(nested)}; it must be {list(wanted.shape)} (-1: any)")
    elif len(flat) != math.prod(shape) or (len(nested) != 1 and nested != shape):
        raise Rejected(
            f"input {wanted.name!r} has {len(flat)} values in shape {list(nested)}; "
            f"shape {list(shape)} needs {math.prod(shape)}"
        )
    return _typed(flat, wanted).reshape(nested if shape is None else shape)


def from_bytes(raw: memoryview, wanted: Tensor, *, shape: tuple[int, ...]) -> np.ndarray:
    """An array from row-major little-endian bytes; of a BYTES tensor each element has its length before it."""
    count = math.prod(shape)
    if wanted.datatype == "BYTES":
        return _strings(raw, wanted, count).reshape(shape)
    dtype = np.dtype(NUMPY_OF[wanted.datatype])
    if len(raw) != count * dtype.itemsize:
        raise Rejected(
            f"input {wanted.name!r} has {len(raw)} bytes; shape {list(shape)} of {wanted.datatype} needs "
            f"{count * dtype.itemsize}"
        )
    if dtype.kind == "b":
        # Any byte but 0 is true: a numpy bool that is neither 0 nor 1 would not be.
        return np.not_equal(np.frombuffer(raw, np.uint8), 0).reshape(shape)
    # A copy where the bytes lie at an odd address: kernels may read them by the word.
    return np.require(np.frombuffer(raw, dtype), requirements=["A"]).reshape(shape)


def to_bytes(array: np.ndarray) -> bytes:
    """What `from_bytes` reads."""
    if array.dtype.kind not in "OUS":
        return np.ascontiguousarray(array).tobytes()
    parts = [value if isinstance(value, bytes) else str(value).encode() for value in array.ravel().tolist()]
    return b"".join(len(part).to_bytes(_LENGTH, "little") + part for part in parts)


def to_json(array: np.ndarray) -> Any:
    """What orjson writes as nested lists: numbers as they are, bytes as text."""
    if array.dtype.kind in "OUS":
        return _texts(array.tolist())
    return np.ascontiguousarray(array)


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(part) for part in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fits(shape: Sequence[int], wanted: Tensor) -> bool:
    return len(shape) == len(wanted.shape) and all(
        want in (-1, have) for have, want in zip(shape, wanted.shape, strict=True)
    )


def _flattened(data: list[Any], wanted: Tensor) -> tuple[list[Any], tuple[int, ...]]:
    """The values one after another, and the shape in which they were nested; all of it at the speed of C."""
    shape = [len(data)]
    while data and type(data[0]) is list:
        sizes = {len(part) if type(part) is list else -1 for part in data}
        if len(sizes) != 1 or -1 in sizes:
            raise Rejected(f"the data of input {wanted.name!r} are not a regular array")
        shape.append(sizes.pop())
        data = list(chain.from_iterable(data))
    return data, tuple(shape)


def _typed(flat: list[Any], wanted: Tensor) -> np.ndarray:
    dtype, wrong = np.dtype(NUMPY_OF[wanted.datatype]), f"the data of input {wanted.name!r} are not all "
    if dtype.kind == "O":
        if not set(map(type, flat)) <= {str, bytes}:
            raise Rejected(wrong + wanted.datatype)
        return _texts_of(flat, wanted)
    try:
        # Only numbers can be added up: numpy would make room for the longest of any texts in every element. And with
        # one float among them the sum is one.
        if type(flat[0]) is float or type(sum(flat)) is float:
            array = _doubles(flat)
        else:
            array = np.array(flat)
            if dtype == np.uint64 and array.dtype.kind == "f":
                # No float was among them: numpy finds no other type for small numbers beside those of 2**63 and more.
                array = np.array(flat, dtype=dtype)
    except (TypeError, ValueError, OverflowError, struct.error) as error:
        raise Rejected(wrong + wanted.datatype) from error
    if array.dtype.kind not in _ACCEPTED[dtype.kind]:
        raise Rejected(wrong + wanted.datatype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise Rejected(f"the data of input {wanted.name!r} do not fit into {wanted.datatype}")
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _doubles(flat: list[Any]) -> np.ndarray:
    """What numpy makes of numbers, in a third of the time. Raises `struct.error` where one is none."""
    array = np.empty(len(flat))
    for start in range(0, len(flat), _TOGETHER):
        part = flat[start : start + _TOGETHER]
        struct.pack_into(f"{len(part)}d", array.data, start * array.itemsize, *part)
    return array


def _strings(raw: memoryview, wanted: Tensor, count: int) -> np.ndarray:
    found: list[bytes] = []
    place = 0
    while place < len(raw) and len(found) <= count:
        end = place + _LENGTH + int.from_bytes(raw[place : place + _LENGTH], "little")
        if place + _LENGTH > len(raw) or end > len(raw):
            raise Rejected(f"the bytes of input {wanted.name!r} end within an element")
        found.append(bytes(raw[place + _LENGTH : end]))
        place = end
    if len(found) != count or place != len(raw):
        raise Rejected(f"input {wanted.name!r} does not have the {count} elements of its shape")
    return _texts_of(found, wanted)


def _texts_of(values: Sequence[str | bytes], wanted: Tensor) -> np.ndarray:
    """The runtimes' texts are Unicode: of bytes they would make what Python prints for them."""
    array = np.empty(len(values), object)
    try:
        array[:] = [value.decode() if isinstance(value, bytes) else value for value in values]
    except UnicodeDecodeError as error:
        raise Rejected(f"an element of input {wanted.name!r} is not UTF-8") from error
    return array
