"""Stands in for TensorRT's Python module in tests: loads what stand_in_trtexec.py builds, and answers by ONNX Runtime.

It has the names that the versions of tests/tensorrt_api.json have, as far as they are used. `STAND_IN` says what it
does besides: load nothing, crash, die at a query, answer wrongly.
"""

from __future__ import annotations

import ctypes
import enum
import os
import sys
from typing import Any

import numpy as np
import onnxruntime as ort

__version__ = "10.3.0"
BATCH = 8  # the most that the profile of the tests' engines takes
DO = os.environ.get("STAND_IN", "")


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT64 = 8


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int64)": (DataType.INT64, np.int64),
}


class Logger:
    pass


def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
    assert namespace == ""
    return True


class Runtime:
    def __init__(self, logger: Logger) -> None:
        print("[TRT] a line of TensorRT's own, on standard output")
        if DO == "crash":
            print("[TRT] something is wrong", file=sys.stderr, flush=True)
            os.abort()

    def deserialize_cuda_engine(self, data: bytes) -> ICudaEngine | None:
        return None if DO == "load nothing" or not data.startswith(b"ENGINE") else ICudaEngine(data[6:])


class ICudaEngine:
    def __init__(self, model: bytes) -> None:
        self._session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._inputs = {tensor.name: tensor for tensor in self._session.get_inputs()}
        self._outputs = {tensor.name: tensor for tensor in self._session.get_outputs()}

    @property
    def num_io_tensors(self) -> int:
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, number: int) -> str:
        return [*self._inputs, *self._outputs][number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return TYPES[self._tensor(name).type][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._tensor(name).shape)

    def get_tensor_profile_shape(self, name: str, number: int) -> list[tuple[int, ...]]:
        assert number == 0
        shape = self.get_tensor_shape(name)
        return [tuple(size if size >= 0 else batch for size in shape) for batch in (1, 1, BATCH)]

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def _tensor(self, name: str) -> Any:
        return (self._inputs | self._outputs)[name]


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, int] = {}
        self._queries = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, most, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0]
        return tuple(size if size >= 0 else batch for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address
        self._places[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._queries += 1
        if DO == "die at a query" and self._queries > 4:  # the packed samples are four
            os.abort()
        engine, feeds = self._engine, {}
        for name, shape in self._shapes.items():
            dtype = np.dtype(TYPES[engine._tensor(name).type][1])
            raw = ctypes.string_at(self._places[name], int(np.prod(shape)) * dtype.itemsize)
            feeds[name] = np.frombuffer(raw, dtype).reshape(shape)
        for name, answer in zip(engine._outputs, engine._session.run(None, feeds), strict=True):
            wrong = -answer if DO == "answer wrongly" else answer
            ctypes.memmove(self._places[name], np.ascontiguousarray(wrong).ctypes.data, wrong.nbytes)
        return True
