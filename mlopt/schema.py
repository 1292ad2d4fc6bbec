"""Strict reading of declarations: a TOML file becomes a frozen dataclass, or one error that says what to correct.

Keys are the fields' names in kebab-case. A key that no field has, a missing one, a wrong type and a quantity
without its unit are errors. The same dataclasses give the JSON Schemas for editors: mlopt/json_schema.py.
"""

from __future__ import annotations

import collections.abc
import difflib
import tomllib
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from mlopt.errors import ConfigInvalid
from mlopt.units import UNITS, parse

T = TypeVar("T")

VERSION: Final = 1
GIVEN: Final = "a field that read_toml is given, and that no file may set"
REST: Final = "a field that takes every key which no other field has"
_TYPES: Final = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


@dataclass(frozen=True, slots=True)
class Key:
    """Marks a field that has a key of its own: `[[stack]]` fills `stacks: Annotated[..., Key("stack")]`."""

    key: str


def read_toml(path: Path, cls: type[T], **given: Any) -> T:
    """The dataclass that a file declares; `given` are fields that the file may not set (its name).

    Raises `ConfigInvalid` with the file, the key and how to write it right.
    """
    return decode(load(path), cls, where=str(path), **given)


def load(path: Path) -> dict[str, Any]:
    """The raw tables of a TOML file, its `schema` version checked. Raises `ConfigInvalid`."""
    try:
        table = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError as error:
        raise ConfigInvalid("There is no such file.", where=str(path), next="check the path") from error
    except OSError as error:
        raise ConfigInvalid(f"The file cannot be read: {error.strerror}.", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid("The file is not UTF-8 text.", where=str(path), next="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(f"The file is not TOML: {error}.", where=str(path), next="correct that place") from error
    version = table.get("schema", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise ConfigInvalid(
            f"The file says schema = {version!r}; this mlopt reads schema = {VERSION}.",
            where=f"{path}: schema",
            next="update mlopt, or write the file anew after a built-in one",
        )
    return table


def decode(table: Mapping[str, Any], cls: type[T], *, where: str, **given: Any) -> T:
    """The dataclass that a table declares. `where` names its file in errors. Raises `ConfigInvalid`."""
    plain = {key: value for key, value in table.items() if key != "schema"}
    result: T = _table(plain, cls, _Place(where), given)
    return result


def key_of(declared: Field[Any], hint: Any) -> str:
    """A field's key in TOML."""
    keys = [mark.key for mark in marks(hint) if isinstance(mark, Key)]
    return keys[0] if keys else declared.name.replace("_", "-")


def marks(hint: Any) -> tuple[Any, ...]:
    """What a type hint is annotated with: `GIVEN`, `REST`, a `Key`."""
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def keys_of(cls: type[Any]) -> dict[str, Field[Any]]:
    """The keys that a file may have, with their fields."""
    hints = get_type_hints(cls, include_extras=True)
    own = [one for one in fields(cls) if not {GIVEN, REST} & set(marks(hints[one.name]))]
    return {key_of(one, hints[one.name]): one for one in own}


def is_required(declared: Field[Any]) -> bool:
    return declared.default is MISSING and declared.default_factory is MISSING


@dataclass(frozen=True, slots=True)
class _Place:
    file: str
    keys: str = ""

    def below(self, key: str) -> _Place:
        return _Place(self.file, f"{self.keys}.{key}" if self.keys else key)

    def item(self, index: int) -> _Place:
        return _Place(self.file, f"{self.keys}[{index}]")

    def wrong(self, what: str, next: str = "", cause: Exception | None = None) -> NoReturn:
        where = f"{self.file}: {self.keys}" if self.keys else self.file
        raise ConfigInvalid(what, where=where, next=next) from cause


def _table(table: Mapping[str, Any], cls: type[Any], place: _Place, given: Mapping[str, Any]) -> Any:
    hints = get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = dict(given)
    open_to = keys_of(cls)
    rest = next((one for one in fields(cls) if REST in marks(hints[one.name])), None)
    if rest:
        values[rest.name] = {}
    for key, value in table.items():
        if key in open_to:
            values[open_to[key].name] = _value(value, hints[open_to[key].name], place.below(key))
        elif rest:
            values[rest.name][key] = value
        else:
            _unknown_key(key, tuple(open_to), place)
    if missing := [key for key, one in open_to.items() if is_required(one) and one.name not in values]:
        place.wrong(
            f"The key {missing[0]!r} is missing.", next=_how_to_write(missing[0], hints[open_to[missing[0]].name])
        )
    try:
        return cls(**values)
    except ValueError as error:
        place.wrong(f"{error}.", next="correct it", cause=error)


def _unknown_key(key: str, known: tuple[str, ...], place: _Place) -> NoReturn:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=1, cutoff=0.5)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    place.below(key).wrong(f"There is no key {key!r} here.{guess}", next=f"known: {', '.join(sorted(known)) or 'none'}")


def _how_to_write(key: str, hint: Any) -> str:
    return f"add a table [{key}]" if is_dataclass(hint) else f"add {key} = {_describe(hint)}"


def _value(value: Any, hint: Any, place: _Place) -> Any:
    if hint in UNITS:
        try:
            return parse(hint, value)
        except ValueError as error:
            place.wrong(f"{error}.", next=f"write it like {UNITS[hint].example!r}", cause=error)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _value(value, arguments[0], place)
    if origin in (Union, types.UnionType):
        return _union(value, [one for one in arguments if one is not type(None)], place)
    if origin is Literal:
        return _literal(value, arguments, place)
    if origin is tuple:
        return _tuple(value, arguments, place)
    if origin is collections.abc.Mapping:
        _expect(isinstance(value, dict), value, "a table", place)
        return {key: _value(one, arguments[1], place.below(key)) for key, one in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        _expect(isinstance(value, dict), value, "a table", place)
        return _table(value, hint, place, {})
    return _plain(value, hint, place)


def _plain(value: Any, hint: Any, place: _Place) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    _expect(right, value, _TYPES[hint], place)
    return value


def _union(value: Any, hints: list[Any], place: _Place) -> Any:
    for hint in hints:
        if len(hints) == 1 or _same_form(value, hint):
            return _value(value, hint, place)
    return _expect(False, value, " or ".join(_describe(hint) for hint in hints), place)


def _same_form(value: Any, hint: Any) -> bool:
    """Whether a hint of a union is the one that the writer of `value` meant: table, list or single value."""
    if isinstance(value, dict):
        return is_dataclass(hint) or get_origin(hint) is collections.abc.Mapping
    if isinstance(value, list):
        return get_origin(hint) is tuple
    return isinstance(hint, type) and type(value) is hint


def _literal(value: Any, allowed: tuple[Any, ...], place: _Place) -> Any:
    # True == 1 in Python, and it is not in TOML.
    if not any(value == one and type(value) is type(one) for one in allowed):
        near = difflib.get_close_matches(str(value), [str(one) for one in allowed], n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        place.wrong(f"{value!r} is not known here.{guess}", next=f"one of {', '.join(map(str, allowed))}")
    return value


def _tuple(value: Any, arguments: tuple[Any, ...], place: _Place) -> tuple[Any, ...]:
    _expect(isinstance(value, list), value, "a list", place)
    if arguments[-1] is Ellipsis:
        return tuple(_value(one, arguments[0], place.item(index)) for index, one in enumerate(value))
    if len(value) != len(arguments):
        place.wrong(f"The list has {len(value)} entries, and needs {len(arguments)}.", next="correct it")
    return tuple(
        _value(one, hint, place.item(index)) for index, (one, hint) in enumerate(zip(value, arguments, strict=True))
    )


def _expect(right: bool, value: Any, wanted: str, place: _Place) -> Any:
    if not right:
        shown = repr(value) if len(repr(value)) < 60 else f"{repr(value)[:57]}…"
        place.wrong(f"{shown} is {_noun(value)}, and this is {wanted}.", next=f"write {wanted}")


def _noun(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list) else _TYPES.get(type(value), "a date or time")


def _describe(hint: Any) -> str:
    if hint in UNITS:
        return f'"{UNITS[hint].example}"'
    if get_origin(hint) is Annotated:
        return _describe(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        return "a list"
    return _TYPES.get(hint, "a table")
