"""SavedModel folders, of TensorFlow 1 and 2: export their serving signature, or run it for reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf
from tf2onnx import tf_loader

from mlopt.convert.finish import finish
from mlopt.convert.program import Request, first_line, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.tensorflow_graph import Frozen, inner_values, to_onnx
from mlopt.errors import ModelUnreadable, UnsupportedModel

_SERVING = "serving_default"


def export(request: Request) -> Mapping[str, Any]:
    frozen = _frozen(request["model"])
    model = to_onnx(frozen, opset=request["opset"], source=request["model"])
    finish(model, Path(request["into"]), given=request["inputs"], opset=request["opset"])
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    if request["watch"]:
        write_reference(request, inner_values(_frozen(request["model"]), request["watch"]), by_row=False)
        return {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = _signature(session, request["model"])
        inputs = {name: tensor.name for name, tensor in signature.inputs.items()}
        outputs = {name: tensor.name for name, tensor in signature.outputs.items()}

        def run(feeds: Mapping[str, Any]) -> Mapping[str, Any]:
            answer: Mapping[str, Any] = session.run(outputs, {inputs[name]: value for name, value in feeds.items()})
            return answer

        write_reference(request, run, by_row=False)
    return {}


def _frozen(path: str) -> Frozen:
    """The serving signature without variables.

    The graph is loaded as TensorFlow 1 did: that reads every SavedModel, while the object graph of folders
    written by old Keras versions (optimizer slots) cannot be restored by a new one, and is not needed.
    """
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        signature = _signature(session, path)
        inputs = {name: tensor.name for name, tensor in sorted(signature.inputs.items())}
        outputs = {name: tensor.name for name, tensor in sorted(signature.outputs.items())}
        graph = tf.compat.v1.graph_util.convert_variables_to_constants(
            session, session.graph_def, [name.split(":")[0] for name in outputs.values()]
        )
    with tf.Graph().as_default():
        optimized = tf_loader.tf_optimize(list(inputs.values()), list(outputs.values()), graph)
    return Frozen(optimized, inputs, outputs)


def _signature(session: Any, path: str) -> Any:
    try:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], path)
    except Exception as error:  # TensorFlow raises errors of many kinds
        raise ModelUnreadable(
            f"TensorFlow {tf.__version__} cannot read the SavedModel: {first_line(error)}",
            where=path,
            next="copy the whole folder again, with variables/ in it",
        ) from error
    usable = {name: value for name, value in loaded.signature_def.items() if value.outputs and value.inputs}
    if not usable:
        raise UnsupportedModel(
            "The SavedModel has no signature to serve, so what it takes and gives is not known.",
            where=path,
            next="save it with one: tf.saved_model.save(model, folder, signatures=...)",
        )
    return usable.get(_SERVING) or usable[sorted(usable)[0]]


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
