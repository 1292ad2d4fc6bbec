"""LiteRT on the CPU, set up in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


class TfliteModel:
    """A .tflite file in LiteRT, with XNNPACK's kernels where it has them. One query runs at a time: `infer` may be
    called from several threads, which then wait for each other.

    Its inputs may come with any batch, for which it is prepared anew when that changes.
    """

    def __init__(self, model: Path | bytes, *, threads: int) -> None:
        """A path, or a file's content. Raises ValueError or RuntimeError, as LiteRT does, for what it cannot take."""
        from ai_edge_litert.interpreter import Interpreter

        held: dict[str, Any] = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        self._interpreter: Any = Interpreter(**held, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._inputs = {one["name"]: one["index"] for one in self._interpreter.get_input_details()}
        self._outputs = [one["index"] for one in self._interpreter.get_output_details()]
        self.outputs: tuple[str, ...] = tuple(one["name"] for one in self._interpreter.get_output_details())
        self._shapes = {one["name"]: tuple(one["shape"]) for one in self._interpreter.get_input_details()}
        self._lock = threading.Lock()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs, in the model's order, for arrays by input name."""
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
