"""OpenVINO on the CPU, set up in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

# The metadata of an ONNX file that says in which type floating-point operators compute: f32 where it says nothing.
PRECISION: Final = "mlopt.inference-precision"
# That OpenVINO is to run element-wise operators one by one, not as one program: these round otherwise between int8 and
# bf16. Its name for that is not documented.
APART: Final = "mlopt.elementwise-apart"
_SNIPPETS: Final = "SNIPPETS_MODE"
_CONVERTER: Final = "openvino.tools.ovc"


def library() -> Any:
    """The module openvino, without its converter: that one reports every import to its maker, and nothing here
    converts with it."""
    if sys.modules.get("openvino") is None:
        sys.modules.setdefault(_CONVERTER, None)  # type: ignore[arg-type]  # importing it fails, which is expected
        try:
            import openvino
        finally:
            if sys.modules[_CONVERTER] is None:
                del sys.modules[_CONVERTER]
        return openvino
    return sys.modules["openvino"]


class Network:
    """An ONNX file in OpenVINO, for one query at a time. `infer` may be called from several threads.

    It is compiled for a batch of one, where nothing but the batch is free (kernels of a fixed shape are up to a fifth
    faster); for all other shapes it is compiled once more, when the first of them comes.
    """

    def __init__(self, model: Path, *, threads: int, profiling: bool = False) -> None:
        """Raises RuntimeError, as OpenVINO does, when it cannot read or compile the file."""
        self._model, self._threads, self._profiling = model, threads, profiling
        self._core = library().Core()
        graph = self._core.read_model(str(model))
        self.outputs: tuple[str, ...] = tuple(output.get_any_name() for output in graph.outputs)
        self._single = _batch_of_one(graph)
        try:
            graph.reshape(self._single)
            self.compiled = self._compiled(graph)
        except RuntimeError:
            # It cannot take a batch of one, or it cannot be compiled at all: then this says why.
            self._single = {}
            self.compiled = self._compiled(self._core.read_model(str(model)))
        self._for_any = None if self._single else self.compiled
        self._lock, self._mine = threading.Lock(), threading.local()

    def infer(self, feeds: Mapping[str, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs, in the model's order, for arrays by input name."""
        # Inputs are read where they lie; outputs are copied, for the next query writes over them.
        found: tuple[np.ndarray, ...] = self.request(feeds).infer(dict(feeds), share_inputs=True).to_tuple()
        return found

    def request(self, feeds: Mapping[str, np.ndarray]) -> Any:
        """What this thread asks about arrays of these shapes."""
        single = {name: value.shape for name, value in feeds.items()} == self._single
        requests = self._mine.__dict__  # each thread its own: a request runs one query at a time
        key = "single" if single else "any"
        if key not in requests:
            requests[key] = (self.compiled if single else self._any()).create_infer_request()
        return requests[key]

    def _any(self) -> Any:
        with self._lock:
            if self._for_any is None:
                self._for_any = self._compiled(self._core.read_model(str(self._model)))
            return self._for_any

    def _compiled(self, graph: Any) -> Any:
        precision = _said(graph, PRECISION) or "f32"
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "PERF_COUNT": self._profiling,
            "INFERENCE_NUM_THREADS": self._threads,
            # Two threads asked for are two threads, also where they share a core; and none is tied to one.
            "ENABLE_HYPER_THREADING": True,
            "ENABLE_CPU_PINNING": False,
            # Left to itself it computes in bfloat16 wherever the processor can.
            "INFERENCE_PRECISION_HINT": precision,
            "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
        }
        if not _said(graph, APART):
            return self._core.compile_model(graph, "CPU", settings)
        try:
            return self._core.compile_model(graph, "CPU", {**settings, _SNIPPETS: "DISABLE"})
        except RuntimeError:  # a version that does not know it, or a graph that does not compile: then this says why
            return self._core.compile_model(graph, "CPU", settings)


def _said(graph: Any, name: str) -> str:
    """What the file's metadata say under that name, or nothing."""
    path = ["framework", name]
    return str(graph.get_rt_info(path).astype(str)) if graph.has_rt_info(path) else ""


def _batch_of_one(graph: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs at batch 1; empty where nothing is free, or more than the first dimension is."""
    shapes = {}
    for entry in graph.inputs:
        shape = entry.get_partial_shape()
        if shape.rank.is_dynamic or any(size.is_dynamic for size in list(shape)[1:]):
            return {}
        sizes = [1 if size.is_dynamic else size.get_length() for size in shape]
        shapes[entry.get_any_name()] = tuple(sizes)
    return shapes if graph.is_dynamic() else {}
