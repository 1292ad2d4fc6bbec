"""JSON Schemas of the declarations, generated from the dataclasses that read them, for editors and checks.

`python -m mlopt.json_schema` writes them anew after a change of those; a test fails when they are stale. An editor
with a TOML language server takes one from a comment: `#:schema …/target.schema.json`.
"""

from __future__ import annotations

import collections.abc
import json
import types
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from mlopt.profile import Profile
from mlopt.project import ProjectFile
from mlopt.recipe import Recipe
from mlopt.schema import REST, VERSION, is_required, keys_of, marks
from mlopt.target import Target
from mlopt.units import UNITS, Fraction

FOLDER: Final = Path(__file__).parent / "schemas"
PUBLISHED: Final[dict[str, type]] = {"target": Target, "profile": Profile, "recipe": Recipe, "project": ProjectFile}

_PLAIN: Final[dict[Any, dict[str, Any]]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    object: {},
}


def json_schema(cls: type) -> dict[str, Any]:
    """JSON Schema 2020-12 of a TOML file that `read_toml` reads as `cls`."""
    definitions: dict[str, Any] = {}
    whole = _table(cls, definitions)
    whole["properties"] = {"schema": {"const": VERSION, "description": "version of this format"}, **whole["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mlopt {next(name for name, kind in PUBLISHED.items() if kind is cls)}",
        **whole,
        "$defs": dict(sorted(definitions.items())),
    }


def schema_text(cls: type) -> str:
    """The schema as its file holds it."""
    return json.dumps(json_schema(cls), indent=0, separators=(",", ":"), ensure_ascii=False) + "\n"


def schema_path(name: str) -> Path:
    return FOLDER / f"{name}.schema.json"


def _table(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    keys = keys_of(cls)
    return {
        "type": "object",
        "description": " ".join((cls.__doc__ or "").split()),
        "properties": {key: _property(one, hints[one.name], definitions) for key, one in keys.items()},
        "required": [key for key, one in keys.items() if is_required(one)],
        "additionalProperties": any(REST in marks(hint) for hint in hints.values()),
    }


def _property(declared: Field[Any], hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    found = _schema(hint, definitions)
    if declared.default is not MISSING and isinstance(declared.default, (bool, int, str)) and "$ref" not in found:
        # A quantity's default is a bare number here, and a text with its unit in TOML.
        return found if hint in UNITS else {**found, "default": declared.default}
    return found


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if hint in UNITS:
        return _quantity(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _schema(arguments[0], definitions)
    if origin in (Union, types.UnionType):
        given = [_schema(one, definitions) for one in arguments if one is not type(None)]
        return given[0] if len(given) == 1 else {"anyOf": given}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple:
        return _list(arguments, definitions)
    if origin is collections.abc.Mapping:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    assert is_dataclass(hint), hint
    assert isinstance(hint, type), hint
    if hint.__name__ not in definitions:
        definitions[hint.__name__] = {}  # its place, should it hold itself
        definitions[hint.__name__] = _table(hint, definitions)
    return {"$ref": f"#/$defs/{hint.__name__}"}


def _quantity(hint: Any) -> dict[str, Any]:
    unit = UNITS[hint]
    text = {"type": "string", "pattern": unit.pattern, "examples": [unit.example]}
    described = f'{unit.noun} like "{unit.example}"'
    if hint is Fraction:
        return {
            "anyOf": [text, {"type": "number", "minimum": 0, "maximum": 1}],
            "description": f"{described} or a number from 0 to 1",
        }
    return {**text, "description": described}


def _list(arguments: tuple[Any, ...], definitions: dict[str, Any]) -> dict[str, Any]:
    if arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    entries = [_schema(one, definitions) for one in arguments]
    return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, cls in PUBLISHED.items():
        schema_path(name).write_text(schema_text(cls))


if __name__ == "__main__":
    main()
