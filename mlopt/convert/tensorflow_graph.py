"""A TensorFlow computation frozen to one graph: what Keras models and SavedModels both become on their way to ONNX."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
import tensorflow as tf
import tf2onnx

from mlopt.convert.finish import rename
from mlopt.convert.program import first_line
from mlopt.convert.rewrite import canonical
from mlopt.errors import ExportFailed, UnsupportedModel

_REPLACED: Final = frozenset({"Erfc"})  # left behind by tf2onnx, and written in other terms at the end of an export
_SKIPPED: Final = re.compile(r"Tensorflow op \[(?P<node>[^:\]]+): (?P<op>[^\]]+)\] is not supported")


@dataclass(frozen=True, slots=True)
class Frozen:
    """A GraphDef without variables. `inputs` and `outputs` give the tensor's name in it for each public name."""

    graph: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


def to_onnx(frozen: Frozen, *, opset: int, source: str) -> onnx.ModelProto:
    """Raises `UnsupportedModel` naming an operation that tf2onnx does not know, else `ExportFailed`."""

    def run() -> Any:
        return tf2onnx.convert.from_graph_def(
            frozen.graph,
            input_names=list(frozen.inputs.values()),
            output_names=list(frozen.outputs.values()),
            opset=opset,
        )

    model = converted_by(run, source)
    rename(
        model,
        {tensor: name for name, tensor in frozen.inputs.items()},
        {tensor: name for name, tensor in frozen.outputs.items()},
    )
    return model


def converted_by(run: Callable[[], Any], source: str) -> onnx.ModelProto:
    """What tf2onnx makes; its failures as errors."""
    log = _Told()
    logging.getLogger("tf2onnx.tfonnx").addHandler(log)
    model: onnx.ModelProto
    try:
        model, _ = run()
    except Exception as error:  # tf2onnx raises errors of many kinds
        raise _unsupported(f"{log.text}\n{error}") or ExportFailed(
            f"tf2onnx failed: {type(error).__name__}: {first_line(error)}", where=source
        ) from error
    if unsupported := _unsupported(log.text):
        raise unsupported
    canonical(model)
    return model


class _Told(logging.Handler):
    """Keeps what tf2onnx says: it logs the operations it does not know and fails later for another reason."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{record.getMessage()}\n"


def _unsupported(text: str) -> UnsupportedModel | None:
    for match in _SKIPPED.finditer(text):
        if match["op"].strip() not in _REPLACED:
            return UnsupportedModel(
                f"tf2onnx has no ONNX operator for TensorFlow's {match['op'].strip()!r}.",
                where=f"node {match['node']}",
                next="replace that operation in the model by standard ones, and save it again",
            )
    return None


def inner_values(frozen: Frozen, watch: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from feeds to tensors inside the graph; names that it does not have are left out."""
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(frozen.graph, name="")
    known = {output.name for operation in graph.get_operations() for output in operation.outputs}
    present = [name for name in watch if name in known]

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        with tf.compat.v1.Session(graph=graph) as session:
            values = session.run(present, {frozen.inputs[name]: value for name, value in feeds.items()})
        return dict(zip(present, values, strict=True))

    return run
