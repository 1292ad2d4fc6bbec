"""Strict reading: every slip in a TOML file is one error that names the file, the key and the way out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import jsonschema
import pytest

from mlopt import json_schema, paths
from mlopt.errors import ConfigInvalid
from mlopt.profile import Profile
from mlopt.recipe import Recipe
from mlopt.schema import GIVEN, REST, Key, decode, read_toml
from mlopt.target import Target
from mlopt.units import Bytes, Fraction, Seconds


@dataclass(frozen=True, slots=True)
class Wheel:
    size: Bytes
    options: Annotated[Mapping[str, object], REST] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cart:
    name: Annotated[str, GIVEN]
    summary: str
    turn_time: Seconds | None = None
    slack: Fraction | None = None
    colour: Literal["red", "green", 3] = "red"
    seats: int = 1
    weight: float = 1.0
    open: bool = False
    wheels: Annotated[tuple[Wheel, ...], Key("wheel")] = ()
    pair: tuple[int, int] | None = None
    owners: str | tuple[str, ...] = ()
    rates: Mapping[str, Bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.seats < 0:
            raise ValueError("seats is less than 0")


def cart(text: str, tmp_path: Path) -> Cart:
    path = tmp_path / "cart.toml"
    path.write_text(text)
    return read_toml(path, Cart, name="cart")


def test_everything_is_read(tmp_path: Path) -> None:
    read = cart(
        """
        schema = 1
        summary = "a cart"
        turn-time = "33ms"
        slack = "0.5%"
        colour = 3
        seats = 2
        weight = 3            # a whole number is a number
        pair = [1, 2]
        owners = "me"
        rates = { a = "1MB" }
        [[wheel]]
        size = "1GiB"
        spokes = 12
        """,
        tmp_path,
    )
    wheel = Wheel(Bytes(2**30), {"spokes": 12})
    assert read == Cart(
        "cart", "a cart", Seconds(0.033), Fraction(0.005), 3, 2, 3.0, False, (wheel,), (1, 2), "me", {"a": Bytes(10**6)}
    )
    assert isinstance(read.weight, float)


GOOD = 'summary = "s"\n'


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        (GOOD + "turn-tme = '1s'", "Did you mean 'turn-time'?", "turn-tme"),
        (GOOD + "turn_time = '1s'", "Did you mean 'turn-time'?", "turn_time"),
        (GOOD + "name = 'other'", "no key 'name'", "name"),
        (GOOD + "turn-time = 33", "has no unit", "turn-time"),
        (GOOD + "turn-time = '33'", "not a duration", "turn-time"),
        (GOOD + "slack = 5", "between 0 and 1", "slack"),
        (GOOD + "colour = 'gren'", "Did you mean 'green'?", "colour"),
        (GOOD + "seats = true", "is true or false", "seats"),
        (GOOD + "seats = 1.5", "is a number, and this is a whole number", "seats"),
        (GOOD + "seats = '1'", "is a text", "seats"),
        (GOOD + "seats = -1", "seats is less than 0", ""),
        (GOOD + "open = 1", "is a whole number", "open"),
        (GOOD + "weight = 'x'", "is a text", "weight"),
        (GOOD + "weight = 1979-05-27", "date", "weight"),
        (GOOD + "pair = [1]", "has 1 entries, and needs 2", "pair"),
        (GOOD + "pair = [1, 'x']", "is a text", "pair[1]"),
        (GOOD + "owners = 3", "a text or a list", "owners"),
        (GOOD + "owners = ['a', 3]", "is a whole number", "owners[1]"),
        (GOOD + "wheel = 3", "this is a list", "wheel"),
        (GOOD + "[[wheel]]\nspokes = 3", "'size' is missing", "wheel[0]"),
        (GOOD + "[rates]\na = 3", "has no unit", "rates.a"),
        ("", "'summary' is missing", ""),
        (GOOD + "schema = 2", "reads schema = 1", "schema"),
        (GOOD + "schema = true", "reads schema = 1", "schema"),
        ("summary = ", "not TOML", ""),
        (GOOD + GOOD, "not TOML", ""),
    ],
)
def test_every_slip_names_file_key_and_way_out(text: str, what: str, where: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        cart(text, tmp_path)
    assert what in caught.value.what
    assert caught.value.where == str(tmp_path / "cart.toml") + (f": {where}" if where else "")
    assert caught.value.next
    assert caught.value.exit_code == 19


def test_a_file_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no such file"):
        read_toml(tmp_path / "absent.toml", Cart, name="x")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        read_toml(tmp_path, Cart, name="x")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'summary = "\xe9"')
    with pytest.raises(ConfigInvalid, match="UTF-8"):
        read_toml(latin, Cart, name="x")


def test_a_table_in_a_table_says_its_whole_path() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        decode({"summary": "s", "budgets": {"latency-p50": 3}}, Profile, where="f.toml", name="f")
    assert caught.value.where == "f.toml: budgets.latency-p50"


@pytest.mark.parametrize("name", list(json_schema.PUBLISHED))
def test_published_schemas_are_current_and_valid(name: str) -> None:
    published = json_schema.schema_path(name).read_text()
    assert published == json_schema.schema_text(json_schema.PUBLISHED[name]), "run: python -m mlopt.json_schema"
    jsonschema.Draft202012Validator.check_schema(json.loads(published))


def _validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(json_schema.schema_path(name).read_text()))


@pytest.mark.parametrize(("kind", "name"), [("targets", "target"), ("profiles", "profile"), ("optimize", "recipe")])
def test_what_ships_validates(kind: paths.Kind, name: str) -> None:
    validator = _validator(name)
    shipped = sorted(paths.folder(kind).glob("*.toml"))
    assert len(shipped) >= 5
    for path in shipped:
        problems = [problem.message for problem in validator.iter_errors(tomllib.loads(path.read_text()))]
        assert not problems, f"{path.name}: {problems}"


@pytest.mark.parametrize(
    ("cls", "name", "table"),
    [
        (Profile, "profile", {"summary": "s", "budgets": {"latency-p50": "33ms"}}),
        (Profile, "profile", {"summary": "s", "budgets": {"latency-p50": 33}}),
        (Profile, "profile", {"summary": "s", "budgets": {"latency-p5": "33ms"}}),
        (Profile, "profile", {"summary": "s", "budgets": {"max-drop": 0.01}}),
        (Profile, "profile", {"summary": "s", "budgets": {"max-drop": 2}}),
        (Profile, "profile", {"summary": "s", "minimize": "speed"}),
        (Profile, "profile", {}),
        (Recipe, "recipe", {"summary": "s", "precision": "int8", "step": [{"name": "x", "any": [1]}]}),
        (Recipe, "recipe", {"summary": "s", "precision": "int8", "step": [{"any": 1}]}),
        (Recipe, "recipe", {"summary": "s", "precision": "int8", "needs-isa": ["neon2"], "step": [{"name": "x"}]}),
        (Target, "target", {"summary": "s", "platform": "linux/arm64", "cpu": {"model": "m", "isa": ["neon"]}}),
        (Target, "target", {"summary": "s", "platform": "linux/arm64", "cpu": {"model": "m"}}),
        (Target, "target", {"summary": "s", "platform": "linux/arm64", "memory": "8 potatoes"}),
    ],
)
def test_schema_and_reader_agree(cls: type, name: str, table: dict[str, object]) -> None:
    try:
        decode(table, cls, where="t", name="t")
        read = True
    except ConfigInvalid:
        read = False
    assert _validator(name).is_valid(table) == read
