"""LiteRT on the CPU, set up in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

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
        with _without_news():
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
    What it says of any other weight is handed on."""
    sys.stderr.flush()
    with _OPENING, tempfile.TemporaryFile() as said:
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
