"""Kinds of variant that can be made: named steps with options, and what they need. One file of `optimize/` each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mlopt import paths, registry
from mlopt.schema import GIVEN, REST, Key, read_toml
from mlopt.target import Isa


@dataclass(frozen=True, slots=True)
class StepSpec:
    """A step by its registered name; every other key of its `[[step]]` is an option of it."""

    name: str
    options: Annotated[Mapping[str, object], REST]

    def __post_init__(self) -> None:
        for key, value in self.options.items():
            if not isinstance(value, (bool, int, float, str, list)):
                raise ValueError(f"option {key!r} of step {self.name!r} is neither a single value nor a list")


@dataclass(frozen=True, slots=True)
class Recipe:
    """`needs_ops` and `needs_isa` are met by any one of theirs; empty needs nothing. `on_request`: made only when it
    is asked for by name, because that takes long. `no_faster_than` names a recipe whose variants run
    at least as fast, because their kernels are the same or more of them int8: where that one is too slow to win, this
    one is not made. `begins_as` names a recipe of as many steps: where that one is planned too, this one takes
    its options, and finds in the store what that one made. `engine` is a step that makes an engine for the target's GPU
    of what `steps` made: a file more, beside the model that it was made from."""

    name: Annotated[str, GIVEN]
    summary: str
    precision: str
    steps: Annotated[tuple[StepSpec, ...], Key("step")]
    runtime: str = "onnxruntime"
    needs_samples: bool = False
    needs_ops: tuple[str, ...] = ()
    needs_isa: tuple[Isa, ...] = ()
    min_opset: int = 0
    on_request: bool = False
    no_faster_than: str = ""
    begins_as: str = ""
    engine: StepSpec | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("a recipe needs at least one [[step]]")

    @property
    def sparse(self) -> bool:
        """Whether its engine is to skip two of four weights."""
        return bool(self.engine and self.engine.options.get("sparse"))


def recipe_names() -> tuple[str, ...]:
    """Every declared recipe, sorted."""
    return tuple(paths.declarations("optimize"))


def all_recipes() -> tuple[Recipe, ...]:
    """Every declared recipe, by name."""
    return tuple(_read(path) for path in paths.declarations("optimize").values())


def find_recipe(name: str) -> Recipe:
    """The recipe of that name or `.toml` path. Raises `UnknownName` with near names, `ConfigInvalid`."""
    if paths.is_path(name):
        return _read(paths.given_file(name, "recipe"))
    declared = paths.declarations("optimize")
    if name not in declared:
        raise registry.unknown("recipe", name, tuple(declared))
    return _read(declared[name])


def _read(path: Path) -> Recipe:
    return read_toml(path, Recipe, name=path.stem)
