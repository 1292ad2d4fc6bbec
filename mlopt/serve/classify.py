"""A picture in, classes out: what the page and `POST /v1/classify` do."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import orjson
from PIL import Image

from mlopt.serve.call import Answer, Call, Spent
from mlopt.serve.model import Serving
from mlopt.serve.tensors import NUMPY_OF, Rejected

# Decoders that a browser's pictures need; every other one would only be attack surface.
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
_LARGEST: Final = 40_000_000


@dataclass(frozen=True, slots=True)
class Class:
    """One class of the answer."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best classes, best first; `normalised` when the model itself gave probabilities."""

    classes: tuple[Class, ...]
    normalised: bool


def read_picture(body: bytes, serving: Serving, *, top: int) -> Call:
    """A request to `POST /v1/classify`. Raises `Rejected` for what is not a picture."""
    outputs = tuple(tensor.name for tensor in serving.outputs)
    return Call(picture_feeds(body, serving), outputs, lambda arrays, spent: _answer(arrays, spent, serving, top))


def picture_feeds(body: bytes, serving: Serving) -> dict[str, np.ndarray]:
    """A picture's bytes, decoded and preprocessed as the model declares it. Raises `Rejected`."""
    return {serving.inputs[0].name: _feed(serving, _decoded(body))}


def best(arrays: Mapping[str, np.ndarray], serving: Serving, *, top: int) -> Ranking:
    """The `top` classes of an inference on one picture."""
    probabilities, normalised = _probabilities(_scores(serving, arrays))
    order = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return Ranking(
        tuple(Class(index, _label(serving, index), float(probabilities[index])) for index in order), normalised
    )


def _answer(arrays: Mapping[str, np.ndarray], spent: Spent, serving: Serving, top: int) -> Answer:
    ranking = best(arrays, serving, top=top)
    body = {
        "model_name": serving.name,
        "model_version": serving.version,
        "classes": [
            {"index": entry.index, "name": entry.name, "probability": entry.probability} for entry in ranking.classes
        ],
        "probabilities": "as given by the model" if ranking.normalised else "softmax of the model's scores",
        "milliseconds": {"prepare": round(spent.parse * 1e3, 3), "infer": round(spent.infer * 1e3, 3)},
    }
    return Answer(orjson.dumps(body))


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


def _scores(serving: Serving, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
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
