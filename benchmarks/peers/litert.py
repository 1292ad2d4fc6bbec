"""LiteRT's converter on Keras models, which it starts from: float, and int8 with ranges from calibration samples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from given import Given, run


def quantise(given: Given) -> dict[str, Any]:
    model = tf.keras.models.load_model(given.keras, compile=False)
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if given.variant == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _samples(given)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    (given.out / "model.tflite").write_bytes(converter.convert())
    return {"file": "model.tflite", "runtime": "tensorflow-lite", "precision": given.variant}


def _samples(given: Given) -> Iterator[list[np.ndarray]]:
    for feed in given.feeds():
        yield list(feed.values())


if __name__ == "__main__":
    run(quantise, "tensorflow")
