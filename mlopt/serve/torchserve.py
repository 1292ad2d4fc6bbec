"""The inference API of TorchServe: `/predictions/M` as its own image classifier and base handler answer it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import orjson

from mlopt.serve.call import Answer, Call
from mlopt.serve.classify import best, picture_feeds
from mlopt.serve.model import Serving
from mlopt.serve.tensorflow import read_predict
from mlopt.serve.tensors import Rejected, from_json, to_json

_TOP: Final = 5
_BOUNDARY: Final = re.compile(r'boundary="?([0-9A-Za-z\'()+_,./:=? -]{1,70})"?', re.I)
_FIELD: Final = re.compile(rb'content-disposition:[^\r\n]*;\s*name="?([^";\r\n]*)', re.I)


def read_prediction(body: bytes, content_type: str, serving: Serving) -> Call:
    """One request: a picture, a JSON tensor (of one sample or with the batch in front), or `{"instances": …}`.

    As a body, or as the field `data` (or `body`) of a form. Raises `Rejected`.
    """
    if content_type.lower().startswith("multipart/form-data"):
        body = _field(body, content_type)
    if body[:1].isspace() or body[:1] in (b"[", b"{") or not serving.classifies_pictures:
        return _tensor(body, serving)
    outputs = tuple(tensor.name for tensor in serving.outputs)
    return Call(picture_feeds(body, serving), outputs, lambda arrays, spent: _classes(arrays, serving))


def failure(message: str, status: int) -> dict[str, Any]:
    """An error as TorchServe words it."""
    kind = {404: "ModelNotFoundException", 503: "ServiceUnavailableException"}.get(status, "BadRequestException")
    return {"code": status, "type": kind, "message": message}


def _tensor(body: bytes, serving: Serving) -> Call:
    try:
        message = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Rejected(f"the body is not JSON: {error}", status=400) from error
    if isinstance(message, dict):
        return read_predict(body, serving)
    if len(serving.inputs) != 1:
        names = ", ".join(tensor.name for tensor in serving.inputs)
        raise Rejected(f'this model has the inputs {names}: send {{"instances": [{{…}}]}}')
    (wanted,) = serving.inputs
    outputs = tuple(tensor.name for tensor in serving.outputs)
    try:
        array, one = from_json(message, wanted), False
    except Rejected as error:
        try:
            array, one = from_json([message], wanted), True
        except Rejected:
            raise error from None
    return Call({wanted.name: array}, outputs, lambda arrays, spent: _values(arrays, one=one))


def _values(arrays: Mapping[str, np.ndarray], *, one: bool) -> Answer:
    parts = [to_json(array[0] if one and array.ndim else array) for array in arrays.values()]
    return Answer(orjson.dumps(parts[0] if len(parts) == 1 else parts, option=orjson.OPT_SERIALIZE_NUMPY))


def _classes(arrays: Mapping[str, np.ndarray], serving: Serving) -> Answer:
    return Answer(orjson.dumps({entry.name: entry.probability for entry in best(arrays, serving, top=_TOP).classes}))


def _field(body: bytes, content_type: str) -> bytes:
    """The one field of a form that TorchServe's handlers look at."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        raise Rejected("the form has no boundary")
    parts = (b"\r\n" + body).split(b"\r\n--" + found[1].strip().encode())
    if len(parts) < 3 or not parts[-1].startswith(b"--"):
        raise Rejected("the form is not whole")
    for part in parts[1:-1]:
        head, whole, content = part.partition(b"\r\n\r\n")
        name = _FIELD.search(head)
        if whole and name and name[1] in (b"data", b"body"):
            return content
    raise Rejected("the form has no field named data")
