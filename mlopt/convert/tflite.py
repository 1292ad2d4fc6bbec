"""TFLite sources: export them with their quantization if they have one, or run them for reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
import tf2onnx

from mlopt.convert.finish import finish
from mlopt.convert.program import Request, first_line, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.tensorflow_graph import converted_by
from mlopt.errors import ModelUnreadable


def export(request: Request) -> Mapping[str, Any]:
    path = request["model"]
    _interpreter(path)  # its verifier is stricter than tf2onnx, which takes a damaged file for a small model
    model = converted_by(lambda: tf2onnx.convert.from_tflite(path, opset=request["opset"]), path)
    finish(model, Path(request["into"]), given=request["inputs"], opset=request["opset"])
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    interpreter = _interpreter(request["model"], keep_all=bool(request["watch"]))
    inputs = {detail["name"]: detail for detail in interpreter.get_input_details()}
    outputs = {detail["name"]: detail["index"] for detail in interpreter.get_output_details()}
    watched = set(request["watch"])
    kept = {detail["name"]: detail["index"] for detail in interpreter.get_tensor_details() if detail["name"] in watched}

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        for name, value in feeds.items():
            interpreter.set_tensor(inputs[name]["index"], value)
        interpreter.invoke()
        values = {name: _tensor(interpreter, index) for name, index in (kept or outputs).items()}
        return {name: value for name, value in values.items() if value is not None}

    # Batches are baked into many TFLite graphs, so rows go in one by one.
    write_reference(request, run, by_row=True)
    return {}


def _tensor(interpreter: Any, index: int) -> Any:
    try:
        return interpreter.get_tensor(index)
    except ValueError:  # fused away, so it has no value
        return None


def _interpreter(path: str, *, keep_all: bool = False) -> Any:
    try:
        interpreter = tf.lite.Interpreter(
            path,
            experimental_preserve_all_tensors=keep_all,
            experimental_op_resolver_type=tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            num_threads=1,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ModelUnreadable(f"TensorFlow Lite cannot read the file: {first_line(error)}", where=path) from error
    return interpreter


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
