"""The runtimes that the server can run a model in. An image holds one of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from mlopt.serve.session import opened

if TYPE_CHECKING:
    from mlopt.serve.litert import TfliteModel
    from mlopt.serve.openvino import Network


class Run(Protocol):
    """The outputs of these names, in that order, for arrays by input name; may be called from several threads."""

    def __call__(self, names: Sequence[str], feeds: Mapping[str, np.ndarray], /) -> list[np.ndarray]: ...


class Open(Protocol):
    """Load an ONNX file. Raises whatever the runtime does, ImportError where it is not installed."""

    def __call__(self, model: Path, /, *, threads: int) -> Run: ...


def _onnxruntime(model: Path, *, threads: int) -> Run:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    run: Callable[..., list[np.ndarray]] = opened(model, options).run
    return run


def _openvino(model: Path, *, threads: int) -> Run:
    from mlopt.serve.openvino import Network

    return _picking(Network(model, threads=threads))


def _litert(model: Path, *, threads: int) -> Run:
    from mlopt.serve.litert import TfliteModel

    return _picking(TfliteModel(model.with_suffix(".tflite"), threads=threads))


def _picking(loaded: Network | TfliteModel) -> Run:
    """What gives all outputs in the model's order, as what gives those that are asked for."""
    places = {name: place for place, name in enumerate(loaded.outputs)}

    def run(names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        results = loaded.infer(feeds)
        return [results[places[name]] for name in names]

    return run


RUNTIMES: Final[Mapping[str, Open]] = {"onnxruntime": _onnxruntime, "openvino": _openvino, "litert": _litert}
