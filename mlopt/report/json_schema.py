"""JSON Schemas of report.json and variants.json, generated from the dataclasses that they are written from.

`python -m mlopt.report.json_schema` writes them anew after a change of those; a test fails when they are stale.
"""

from __future__ import annotations

import collections.abc
import json
import types
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from mlopt.report.files import Variants
from mlopt.report.report import Report

FOLDER: Final = Path(__file__).parent / "schemas"
PUBLISHED: Final[dict[str, type]] = {"report.schema.json": Report, "variants.schema.json": Variants}

_PLAIN: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": ["number", "null"]},  # JSON has neither NaN nor infinity: both are written as null
    type(None): {"type": "null"},
}


def schema_of(cls: type) -> dict[str, Any]:
    """JSON Schema 2020-12 of a dataclass as `report.to_json` writes it. Unknown keys are not allowed."""
    definitions: dict[str, Any] = {}
    _define(cls, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": cls.__name__,
        "$ref": f"#/$defs/{cls.__name__}",
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text(cls: type) -> str:
    """The schema as its file holds it."""
    return json.dumps(schema_of(cls), indent=0, separators=(",", ":"), ensure_ascii=False) + "\n"


def _define(cls: type, definitions: dict[str, Any]) -> None:
    if cls.__name__ in definitions:
        return
    definitions[cls.__name__] = {}  # its place, should it hold itself
    hints = get_type_hints(cls)
    written = [field.name for field in fields(cls)]
    doc = cls.__doc__ or ""
    definitions[cls.__name__] = {
        "type": "object",
        # A dataclass without a docstring gets its signature as one, which says nothing here.
        **({} if doc.startswith(f"{cls.__name__}(") else {"description": " ".join(doc.split())}),
        "properties": {name: _schema(hints[name], definitions) for name in written},
        "required": written,
        "additionalProperties": False,
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if hint in (object, Any):
        return {}
    if isinstance(hint, type) and is_dataclass(hint):
        _define(hint, definitions)
        return {"$ref": f"#/$defs/{hint.__name__}"}
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is collections.abc.Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        items = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    raise TypeError(f"{hint!r} has no JSON Schema here: add it to mlopt/report/json_schema.py")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, cls in PUBLISHED.items():
        (FOLDER / name).write_text(schema_text(cls), encoding="utf-8")
