"""What ONNX Runtime's arena held at its peak: counted by the runtime itself, and told through its C interface alone.

Python's module holds a copy of the runtime and does not tell. Beside it the wheel has the same runtime as a library,
which runs the model here once more; its functions are found by their places in its table, which never change.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.errors import UnsupportedModel

if TYPE_CHECKING:
    import numpy as np

_INTERFACE: Final = 23  # of the C interface: the first that tells what an allocator holds
_PLACES: Final[Mapping[str, int]] = {
    "GetErrorMessage": 2,
    "CreateEnv": 3,
    "CreateSession": 7,
    "Run": 9,
    "CreateSessionOptions": 10,
    "SetIntraOpNumThreads": 24,
    "SetInterOpNumThreads": 25,
    "SessionGetOutputCount": 31,
    "SessionGetOutputName": 37,
    "CreateTensorWithDataAsOrtValue": 49,
    "CreateCpuMemoryInfo": 69,
    "GetAllocatorWithDefaultOptions": 78,
    "ReleaseEnv": 92,
    "ReleaseStatus": 93,
    "ReleaseMemoryInfo": 94,
    "ReleaseSession": 95,
    "ReleaseValue": 96,
    "ReleaseSessionOptions": 100,
    "CreateAllocator": 131,
    "ReleaseAllocator": 132,
    "GetKeyValue": 297,
    "ReleaseKeyValuePairs": 300,
    "AllocatorGetStats": 319,
}
_KINDS: Final = ("float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "", "bool", "float16", "float64")
_TYPES: Final = {kind: number for number, kind in enumerate((*_KINDS, "uint32", "uint64"), start=1) if kind}
_ERRORS_ONLY: Final = 3
_Pointer = ctypes.c_void_p


def arena_peak(model: Path, feeds: Sequence[Mapping[str, np.ndarray]], *, threads: int) -> int | None:
    """Bytes that the arena held at most while the model was loaded and answered each of `feeds` twice: the first time
    it learns what a shape takes. What it holds of the weights counts, what a session keeps outside it does not.

    None where the installed runtime cannot tell, or takes a kind of input that has no counterpart in C.
    Raises `UnsupportedModel` when it cannot run the model.
    """
    library = next(iter(sorted(_folder().glob("libonnxruntime.so*"))), None)
    if library is None or any(value.dtype.name not in _TYPES for feed in feeds for value in feed.values()):
        return None
    interface = _Interface.of(library)
    if interface is None:
        return None
    with interface.session(model, threads) as session:
        for feed in (*feeds, *feeds):
            session.run(feed)
        return session.held_at_most()


def _folder() -> Path:
    found = find_spec("onnxruntime")
    return Path(found.origin).parent / "capi" if found and found.origin else Path()


class _Interface:
    """The table of functions."""

    def __init__(self, table: int) -> None:
        self._table = ctypes.cast(table, ctypes.POINTER(_Pointer * (max(_PLACES.values()) + 1))).contents

    @classmethod
    def of(cls, library: Path) -> _Interface | None:
        """None where it is older than what tells of allocators."""
        base = ctypes.CDLL(str(library)).OrtGetApiBase
        base.restype = ctypes.POINTER(_Pointer)
        tables = ctypes.CFUNCTYPE(_Pointer, ctypes.c_uint32)
        table = ctypes.cast(base()[0], tables)(_INTERFACE)
        return cls(table) if table else None

    def call(self, name: str, *arguments: Any, returns: Any = None) -> Any:
        """A function that cannot fail. Pointers and texts are passed as they are, whole numbers as `ctypes` values."""
        types = [type(one) if isinstance(one, ctypes._SimpleCData) else _Pointer for one in arguments]
        return ctypes.CFUNCTYPE(returns, *types)(self._table[_PLACES[name]] or 0)(*arguments)

    def do(self, name: str, *arguments: Any) -> None:
        """One that tells whether it failed. Raises `UnsupportedModel`."""
        if status := self.call(name, *arguments, returns=_Pointer):
            told = self.call("GetErrorMessage", _Pointer(status), returns=ctypes.c_char_p).decode(errors="replace")
            self.call("ReleaseStatus", _Pointer(status))
            raise UnsupportedModel(f"ONNX Runtime failed while its memory was counted: {told.splitlines()[0]}")

    def make(self, name: str, *arguments: Any) -> _Pointer:
        """What such a function makes."""
        made = _Pointer()
        self.do(name, *arguments, ctypes.byref(made))
        return made

    @contextmanager
    def session(self, model: Path, threads: int) -> Iterator[_Session]:
        """The model with the options that a runner loads it with."""
        with ExitStack() as stack:

            def kept(kind: str, made: _Pointer) -> _Pointer:
                stack.callback(self.call, f"Release{kind}", made)
                return made

            name = ctypes.c_char_p(b"mlopt")
            environment = kept("Env", self.make("CreateEnv", ctypes.c_int(_ERRORS_ONLY), name))
            options = kept("SessionOptions", self.make("CreateSessionOptions"))
            self.do("SetIntraOpNumThreads", options, ctypes.c_int(threads))
            self.do("SetInterOpNumThreads", options, ctypes.c_int(1))
            path = ctypes.c_char_p(str(model).encode())
            session = kept("Session", self.make("CreateSession", environment, path, options))
            # An arena's allocator, of the default kind of memory.
            memory = kept("MemoryInfo", self.make("CreateCpuMemoryInfo", ctypes.c_int(1), ctypes.c_int(0)))
            yield _Session(self, session, memory, kept("Allocator", self.make("CreateAllocator", session, memory)))


class _Session:
    def __init__(self, interface: _Interface, session: _Pointer, memory: _Pointer, allocator: _Pointer) -> None:
        self._interface, self._session, self._memory, self._allocator = interface, session, memory, allocator
        count = ctypes.c_size_t()
        interface.do("SessionGetOutputCount", session, ctypes.byref(count))
        names = interface.make("GetAllocatorWithDefaultOptions")
        outputs = [
            ctypes.string_at(interface.make("SessionGetOutputName", session, ctypes.c_size_t(number), names).value or 0)
            for number in range(count.value)
        ]
        self._outputs = (ctypes.c_char_p * len(outputs))(*outputs)

    def run(self, feed: Mapping[str, np.ndarray]) -> None:
        import numpy as np

        arrays = {name: np.ascontiguousarray(value) for name, value in feed.items()}
        with ExitStack() as stack:
            values = [self._value(array, stack) for array in arrays.values()]
            made = (_Pointer * len(self._outputs))()
            self._interface.do(
                "Run",
                self._session,
                None,
                (ctypes.c_char_p * len(arrays))(*(name.encode() for name in arrays)),
                (_Pointer * len(values))(*values),
                ctypes.c_size_t(len(values)),
                self._outputs,
                ctypes.c_size_t(len(self._outputs)),
                made,
            )
            for output in made:
                self._interface.call("ReleaseValue", _Pointer(output))

    def held_at_most(self) -> int | None:
        """As the arena counts; None from an allocator that counts nothing."""
        facts = self._interface.make("AllocatorGetStats", self._allocator)
        try:
            told = self._interface.call("GetKeyValue", facts, ctypes.c_char_p(b"MaxInUse"), returns=ctypes.c_char_p)
            return int(told) if told else None
        finally:
            self._interface.call("ReleaseKeyValuePairs", facts)

    def _value(self, array: np.ndarray, stack: ExitStack) -> _Pointer:
        made = self._interface.make(
            "CreateTensorWithDataAsOrtValue",
            self._memory,
            _Pointer(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            (ctypes.c_int64 * array.ndim)(*array.shape),
            ctypes.c_size_t(array.ndim),
            ctypes.c_int(_TYPES[array.dtype.name]),
        )
        stack.callback(self._interface.call, "ReleaseValue", made)
        return made
