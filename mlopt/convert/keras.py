"""Keras sources: .keras archives and whole-model HDF5 files; export them, or run them for reference."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from tf2onnx import tf_loader

from mlopt.convert.finish import finish
from mlopt.convert.program import Request, first_line, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.tensorflow_graph import Frozen, inner_values, to_onnx
from mlopt.errors import ModelUnreadable, NotTrusted, UnsupportedModel
from mlopt.sniff import sniff


def export(request: Request) -> Mapping[str, Any]:
    model = _load(request["model"])
    onnx_model = to_onnx(_frozen(model), opset=request["opset"], source=request["model"])
    finish(onnx_model, Path(request["into"]), given=request["inputs"], opset=request["opset"])
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    model = _load(request["model"])
    if request["watch"]:
        write_reference(request, inner_values(_frozen(model), request["watch"]), by_row=False)
        return {}
    names = _names(model.inputs)

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        answer = _called(model, [tf.constant(feeds[name]) for name in names])
        return dict(zip(request["outputs"], (value.numpy() for value in tf.nest.flatten(answer)), strict=True))

    write_reference(request, run, by_row=False)
    return {}


class _OldDepthwiseConv2D(keras.layers.DepthwiseConv2D):  # type: ignore[misc]
    """Keras 2 wrote `groups` into depthwise layers, where it can only be 1; Keras 3 refuses to read it."""

    def __init__(self, *args: Any, groups: int = 1, **kwargs: Any) -> None:
        if groups != 1:
            raise ValueError(f"a depthwise convolution with groups={groups}")
        super().__init__(*args, **kwargs)


def _load(path: str) -> Any:
    """The model, uncompiled. Code in it (Lambda layers) is refused unless the file was opened with trust."""
    suffix = ".keras" if zipfile.is_zipfile(path) else ".h5"
    with tempfile.TemporaryDirectory(prefix="mlopt-keras-") as scratch:
        named = Path(scratch) / f"model{suffix}"  # Keras goes by the name
        named.symlink_to(path)
        try:
            model = keras.saving.load_model(
                named,
                compile=False,
                safe_mode=not sniff(Path(path)).code,
                custom_objects={"DepthwiseConv2D": _OldDepthwiseConv2D},
            )
        except Exception as error:  # Keras raises what it likes
            raise _unreadable(path, error) from error
    if not getattr(model, "inputs", None):
        raise UnsupportedModel(
            "The Keras model was saved before it was built, so the shapes of its inputs are not known.",
            where=path,
            next="call the model once, or give its first layer an Input, and save it again",
        )
    return model


def _unreadable(path: str, error: Exception) -> Exception:
    text = str(error)
    if "safe_mode" in text or "unsafe" in text.lower():
        return NotTrusted(
            "Loading this Keras model would run code from it (a Lambda layer).",
            where=path,
            next="if you trust where it came from: --trust",
        )
    if "Could not locate class" in text or "Unknown layer" in text:
        return UnsupportedModel(
            f"The Keras model has a layer that Keras does not know: {first_line(error)}",
            where=path,
            next="save it from its own project as a SavedModel: model.export(folder)",
        )
    return ModelUnreadable(f"Keras {keras.__version__} cannot read the file: {first_line(error)}", where=path)


def _frozen(model: Any) -> Frozen:
    names = _names(model.inputs)
    specs = [
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=name)
        for name, tensor in zip(names, model.inputs, strict=True)
    ]
    function = tf.function(lambda *tensors: tf.nest.flatten(_called(model, tensors)))
    concrete = function.get_concrete_function(*specs)
    inputs = [tensor.name for tensor in concrete.inputs if tensor.dtype != tf.resource]
    outputs = [tensor.name for tensor in concrete.outputs]
    graph = tf_loader.from_function(concrete, inputs, outputs)
    return Frozen(graph, dict(zip(names, inputs, strict=True)), dict(zip(_outputs(model), outputs, strict=True)))


def _called(model: Any, tensors: Any) -> Any:
    return model(tf.nest.pack_sequence_as(model.input, list(tensors)), training=False)


def _names(tensors: Any) -> list[str]:
    return [tensor.name.split(":")[0] for tensor in tensors]


def _outputs(model: Any) -> list[str]:
    """Names of the layers that give the outputs, made unique."""
    names: list[str] = []
    for index, name in enumerate(getattr(model, "output_names", None) or _names(model.outputs)):
        names.append(name if name not in names else f"{name}_{index}")
    inputs = set(_names(model.inputs))
    return [f"{name}_output" if name in inputs else name for name in names]


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
