"""A picture in, classes out: what the page and `POST /v1/classify` do."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from mlopt.serve.model import Model, Serving
from mlopt.serve.protocol import NUMPY_OF, Rejected

# Decoders that a browser's pictures need; every other one would only be attack surface.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_LARGEST: Final = 40_000_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The best classes, best first, and where the time went, in seconds."""

    body: dict[str, Any]
    prepare: float
    infer: float


def classify(model: Model, picture: bytes, *, top: int) -> Answer:
    """Decode, preprocess as declared, infer, rank. Raises `Rejected` for what is not a picture."""
    began = time.perf_counter()
    feed = _feed(model.serving, _decoded(picture))
    prepared = time.perf_counter()
    outputs = model.infer({model.serving.inputs[0].name: feed})
    done = time.perf_counter()
    scores = _scores(model.serving, outputs)
    probabilities, normalised = _probabilities(scores)
    best = np.argsort(-probabilities, kind="stable")[:top]
    body = {
        "model_name": model.serving.name,
        "model_version": model.serving.version,
        "classes": [
            {"index": int(index), "name": _label(model.serving, int(index)), "probability": float(probabilities[index])}
            for index in best
        ],
        "probabilities": "as given by the model" if normalised else "softmax of the model's scores",
        "milliseconds": {
            "prepare": round((prepared - began) * 1e3, 3),
            "infer": round((done - prepared) * 1e3, 3),
        },
    }
    return Answer(body, prepared - began, done - prepared)


def _decoded(picture: bytes) -> Image.Image:
    if not picture:
        raise Rejected("the body is empty; send the bytes of a picture")
    try:
        image = Image.open(io.BytesIO(picture), formats=_FORMATS)
        if image.width * image.height > _LARGEST:
            raise Rejected(
                f"the picture has {image.width} x {image.height} pixels; {_LARGEST} are the limit", status=413
            )
        image.load()
    except Rejected:
        raise
    except Exception as error:
        # Pillow's decoders raise many kinds (OSError, SyntaxError, struct.error …) for bytes that are no picture.
        raise Rejected(
            f"this is not a picture that can be read ({', '.join(_FORMATS)}): {error}", status=415
        ) from error
    return image


def _feed(serving: Serving, image: Image.Image) -> np.ndarray:
    assert serving.preprocess is not None
    wanted = serving.inputs[0]
    place = slice(2, 4) if serving.preprocess.layout == "NCHW" else slice(1, 3)
    size = wanted.shape[place]
    try:
        sample = serving.preprocess.apply(image, size=(size[0], size[1]) if len(size) == 2 and min(size) > 0 else None)
    except ValueError as error:
        raise Rejected(str(error)) from error
    return sample[None].astype(NUMPY_OF[wanted.datatype], copy=False)


def _scores(serving: Serving, outputs: dict[str, np.ndarray]) -> np.ndarray:
    """The output that holds one score per class: the one as long as the class list, else the first."""
    count = len(serving.classes or ())
    rows = [_row(array) for array in outputs.values() if array.dtype.kind in "fiu"]
    if not rows:
        raise Rejected("this model gives no scores", status=404)
    return next((row for row in rows if row.size == count), rows[0])


def _row(array: np.ndarray) -> np.ndarray:
    """Scores as float64. Integers are quantised probabilities: steps above the lowest value of their type."""
    row = np.asarray(array, dtype=np.float64).reshape(-1)
    if array.dtype.kind not in "iu":
        return row
    steps: np.ndarray = row - np.iinfo(array.dtype).min
    return np.asarray(steps / max(steps.sum(), 1.0))


def _probabilities(scores: np.ndarray) -> tuple[np.ndarray, bool]:
    scores = np.nan_to_num(scores, nan=-np.inf, posinf=np.finfo(np.float64).max / 4)
    if scores.min() >= 0 and abs(scores.sum() - 1) < 1e-2:
        return scores, True
    raised = np.exp(scores - scores.max()) if np.isfinite(scores.max()) else np.ones_like(scores)
    return np.asarray(raised / raised.sum()), False


def _label(serving: Serving, index: int) -> str:
    if serving.classes and index < len(serving.classes):
        return serving.classes[index]
    return f"class {index}"
