"""ONNX Runtime without any optimisation: the plain meaning of a graph, and any value inside it by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.signature import signature_of

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]

_NODE: Final = re.compile(r"(?:Name:'|Node ?[:(] ?)(?P<node>[^\s')]+)")


class OrtFailed(Exception):
    """ONNX Runtime refused; `reason` is its own first line, `node` the node it names, if it does."""

    def __init__(self, error: Exception) -> None:
        text = str(error).strip()
        line = text.splitlines()[0] if text else type(error).__name__
        self.reason = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)[:400]
        match = _NODE.search(text)
        self.node = f"node {match['node']}" if match else ""
        self.damaged = "INVALID_PROTOBUF" in text
        super().__init__(self.reason)


class Session:
    """A model file, single-threaded enough to be repeatable. `watch` adds inner values to its outputs."""

    def __init__(self, model: Path, *, fixed: frozenset[str] = frozenset(), watch: Sequence[str] = ()) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(_watched(model, watch), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types share no public base
            raise OrtFailed(error) from error
        self._fixed = fixed
        self.inputs = {value.name for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        """Outputs by name. Raises `OrtFailed`."""
        wanted = {name: value for name, value in feeds.items() if name in self.inputs and name not in self._fixed}
        try:
            return dict(zip(self.outputs, self._session.run(self.outputs, wanted), strict=True))
        except Exception as error:
            raise OrtFailed(error) from error


def constant_inputs(model: Any) -> frozenset[str]:
    """Inputs that have a value of their own in the file: the caller need not give them."""
    return frozenset(tensor.name for tensor in model.graph.initializer)


def _watched(model: Path, watch: Sequence[str]) -> str | bytes:
    if not watch:
        return str(model)
    import onnx

    graph = onnx.load(str(model))
    present = {value.name for value in graph.graph.output}
    made = {name for node in graph.graph.node for name in node.output}
    for name in watch:
        if name in made and name not in present:
            graph.graph.output.append(onnx.ValueInfoProto(name=name))
    content: bytes = graph.SerializeToString()
    return content


def batch_axes(model: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Where the batch is, per input and per output, as the signature names it."""
    signature = signature_of(model)
    if signature.batch is None:
        return {}, {}
    inputs = {t.name: t.shape.index(signature.batch) for t in signature.inputs if signature.batch in t.shape}
    outputs = {t.name: t.shape.index(signature.batch) for t in signature.outputs if signature.batch in t.shape}
    return inputs, outputs
