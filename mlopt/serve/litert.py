"""LiteRT on the CPU, set up in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import numpy as np

# What the description of a .tflite file ends in that is slower in AMX's tiles than without.
NO_TILES: Final = ", not for tiles"
_SMALL: Final = 2048  # bytes of the smallest signal stack that there may be; tiles alone take four times that
# These come of what the thread itself does, and are handled at once or end the process.
_AT_ONCE: Final = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
_OPENING: Final = threading.Lock()


class TfliteModel:
    """A .tflite file in LiteRT, with XNNPACK's kernels where it has them. One query runs at a time: `infer` may be
    called from several threads, which then wait for each other.

    Its inputs may come with any batch, for which it is prepared anew when that changes.
    """

    def __init__(self, model: Path | bytes, *, threads: int) -> None:
        """A path, or a file's content. Raises ValueError or RuntimeError, as LiteRT does, for what it cannot take."""
        from ai_edge_litert.interpreter import Interpreter

        held: dict[str, Any] = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        tiles = not _description(model).endswith(NO_TILES)
        with _without_news(), nullcontext() if tiles else _without_tiles():
            self._interpreter: Any = Interpreter(**held, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._inputs = {one["name"]: one["index"] for one in self._interpreter.get_input_details()}
        self._outputs = [one["index"] for one in self._interpreter.get_output_details()]
        self.outputs: tuple[str, ...] = tuple(one["name"] for one in self._interpreter.get_output_details())
        self._shapes = {one["name"]: tuple(one["shape"]) for one in self._interpreter.get_input_details()}
        self._lock = threading.Lock()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs, in the model's order, for arrays by input name."""
        if feeds.keys() != self._inputs.keys():  # what is not given would still hold the values of the last query
            raise ValueError(f"the inputs are {', '.join(self._inputs)}, and not {', '.join(feeds)}")
        with self._lock:
            self._resize({name: array.shape for name, array in feeds.items()})
            for name, array in feeds.items():
                self._interpreter.set_tensor(self._inputs[name], array)
            self._interpreter.invoke()
            return tuple(self._interpreter.get_tensor(index) for index in self._outputs)

    def _resize(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = {}  # until all of them are taken
        for name, shape in shapes.items():
            # Strict: only a size that the file leaves free may be another.
            self._interpreter.resize_tensor_input(self._inputs[name], shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = dict(shapes)


@contextmanager
def _without_news() -> Iterator[None]:
    """LiteRT tells whoever reads the standard error, from C++ and with no way to ask for less, that it has kernels.
    What it says of any other weight is handed on. A file in memory: an image's server may write none on disk."""
    sys.stderr.flush()
    with _OPENING, open(os.memfd_create("said"), "w+b") as said:
        own = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(own, 2)
            os.close(own)
            said.seek(0)
            sys.stderr.write(
                "".join(
                    line
                    for line in said.read().decode(errors="replace").splitlines(keepends=True)
                    if not line.startswith("INFO:")
                )
            )


def _description(model: Path | bytes) -> str:
    """What a .tflite file says of itself; "" where it is too damaged for that, which LiteRT then says."""
    try:
        with BytesIO(model) if isinstance(model, bytes) else model.open("rb") as file:

            def read(form: str, at: int) -> int:
                file.seek(at)
                return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

            root = read("<I", 0)
            fields = root - read("<i", root)
            # The fourth field of the root; which fields there are stands in a table before it.
            if read("<H", fields) < 12 or not (place := read("<H", fields + 10)):
                return ""
            text = root + place + read("<I", root + place)
            size = read("<I", text)
            file.seek(text + 4)
            return file.read(min(size, 4096)).decode(errors="replace")
    except (OSError, ValueError, struct.error):
        return ""


class _Stack(ctypes.Structure):
    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def _without_tiles() -> Iterator[None]:
    """XNNPACK asks the kernel for AMX's registers once, when it first opens a model, and has VNNI's kernels where it
    gets none: the numbers are the same. The kernel gives none while a thread has a signal stack that could not hold
    them. So this one has, with signals waiting, until the model is open. Where the process has tiles already, or
    has opened a model, nothing changes."""
    if os.uname().machine != "x86_64":
        yield
        return
    libc, room = ctypes.CDLL(None), ctypes.create_string_buffer(_SMALL)
    before, small = _Stack(), _Stack(ctypes.addressof(room), 0, _SMALL)
    waiting = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _AT_ONCE)
    libc.sigaltstack(ctypes.byref(small), ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
        signal.pthread_sigmask(signal.SIG_SETMASK, waiting)
