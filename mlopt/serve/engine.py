"""A TensorRT engine behind the server: the program that runs it in a process of its own, asked over pipes."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from mlopt.serve.tensors import NUMPY_OF, Rejected, Tensor

_PROGRAM: Final = Path(__file__).with_name("tensorrt_program.py")
_TYPES: Final[Mapping[str, type[np.generic]]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
_STOPPING: Final = 5.0  # seconds


class EngineFailed(Exception):
    """The engine cannot be loaded, or does not run any more; the message says why."""


def system_environment() -> dict[str, str]:
    """What a program of the system is started with: what concerns this Python alone is left out."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


class Engine:
    """A loaded engine, as a `Run`. One query at a time; others wait."""

    def __init__(
        self, path: Path, *, sha256: str, python: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Load the engine if its bytes have that digest. Raises `EngineFailed`."""
        self._lock, self._said = threading.Lock(), os.memfd_create("said")  # the image may have no place for files
        self._types = {tensor.name: np.dtype(NUMPY_OF[tensor.datatype]) for tensor in outputs}
        try:
            self._process = subprocess.Popen(
                [python, str(_PROGRAM), str(path), sha256],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=system_environment(),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._said)
            raise EngineFailed(f"{python} cannot be started: {error.strerror}") from error
        assert self._process.stdin
        assert self._process.stdout
        self._queries: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        try:
            hello = self._read()
            self.version = str(hello["version"])
            self._takes, self._gives = _checked(hello["tensors"], inputs, outputs)
        except EngineFailed:
            self.close()
            raise

    def __call__(self, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of these names. Raises `Rejected` for inputs that it does not take, `EngineFailed`."""
        arrays = [_narrowed(name, feeds[name], dtype) for name, dtype in self._takes.items()]
        head = {
            "inputs": [
                {"name": name, "shape": array.shape, "bytes": array.nbytes}
                for name, array in zip(self._takes, arrays, strict=True)
            ],
            "outputs": list(names),
        }
        text = json.dumps(head).encode()
        with self._lock:
            try:
                self._queries.write(struct.pack("<I", len(text)) + text)
                for array in arrays:
                    self._queries.write(array.data.cast("B") if array.nbytes else b"")
                self._queries.flush()
            except (OSError, ValueError) as error:
                raise self._ended() from error
            answer = self._read()
            if "refused" in answer:
                raise Rejected(answer["refused"])
            return [self._array(told) for told in answer["outputs"]]

    def close(self) -> None:
        """End the process: by its input, or by force where it does not listen."""
        with contextlib.suppress(OSError):
            self._queries.close()
        try:
            self._process.wait(_STOPPING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        if self._said >= 0:
            os.close(self._said)
            self._said = -1

    def _array(self, told: Mapping[str, Any]) -> np.ndarray:
        name, raw = told["name"], self._exactly(told["bytes"])
        array = np.frombuffer(raw, dtype=self._gives[name]).reshape(told["shape"])
        return array.astype(self._types[name], copy=False)

    def _read(self) -> dict[str, Any]:
        (length,) = struct.unpack("<I", self._exactly(4))
        told: dict[str, Any] = json.loads(self._exactly(length))
        if "broken" in told:
            raise EngineFailed(told["broken"])
        return told

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._answers.read(size)
        except (OSError, ValueError) as error:
            raise self._ended() from error
        if len(data) != size:
            raise self._ended()
        return data

    def _ended(self) -> EngineFailed:
        """Why the process is gone, in its last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOPPING)
        code = self._process.returncode
        try:
            raw = os.pread(self._said, 1 << 16, max(0, os.fstat(self._said).st_size - (1 << 16)))
        except OSError:  # another query found it dead, and closed it, while this one waited
            raw = b""
        said = raw.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        how = f"was ended by signal {-code}" if code and code < 0 else f"ended with exit code {code}"
        return EngineFailed(f"the process that runs it {how}: {said[-1][:300]}")


def _checked(
    tensors: Sequence[Mapping[str, Any]], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> tuple[dict[str, np.dtype[Any]], dict[str, np.dtype[Any]]]:
    """The types of what it takes and gives, by name. Raises `EngineFailed` where it is not of the model served."""
    takes, gives = (
        {tensor["name"]: np.dtype(_TYPES[tensor["dtype"]]) for tensor in tensors if tensor["input"] is taken}
        for taken in (True, False)
    )
    wanted = {tensor.name for tensor in inputs}, {tensor.name for tensor in outputs}
    if (set(takes), set(gives)) != wanted:
        raise EngineFailed(
            f"it takes {', '.join(sorted(takes))} and gives {', '.join(sorted(gives))}, which the model does not"
        )
    return takes, gives


def _narrowed(name: str, array: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """As the engine holds it: TensorRT 8 has no integers of 64 bits. Raises `Rejected` where a number would change."""
    found = np.ascontiguousarray(array, dtype=dtype)
    if dtype.kind in "iu" and found.dtype != array.dtype and not np.array_equal(found, array):
        raise Rejected(f"input {name!r} has numbers that do not fit {dtype}, as the engine holds them")
    return found.reshape(array.shape)  # numpy makes one dimension of none
