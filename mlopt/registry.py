"""Names to steps and runners, through entry points: built-ins come in by the same door as plug-ins.

    [project.entry-points."mlopt.steps"]
    quantize-static = "mlopt.steps.quantize_static:QuantizeStatic"

Finding a name imports nothing; loading it imports that one module.
"""

from __future__ import annotations

import difflib
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from mlopt.errors import UnknownName

Group = Literal["mlopt.steps", "mlopt.runners"]


def names(group: Group) -> tuple[str, ...]:
    """Every registered name of a group, sorted."""
    return tuple(sorted(_entries(group, tuple(sys.path))))


def load(group: Group, name: str) -> Any:
    """The class registered under `name`. Raises `UnknownName` with the nearest names."""
    return _find(group, name).load()


def _find(group: Group, name: str) -> EntryPoint:
    found = _entries(group, tuple(sys.path)).get(name)
    if found is None:
        raise unknown(group.removeprefix("mlopt.").removesuffix("s"), name, names(group))
    return found


@cache
def _entries(group: Group, path: tuple[str, ...]) -> dict[str, EntryPoint]:
    """By name, of what is installed on `path`: a compile asks some fifteen times, and each reading takes 8 ms."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, entry)  # the first on the path is what an import finds
    return found


def unknown(noun: str, name: str, known: tuple[str, ...], *, next: str = "") -> UnknownName:
    """The error for a name that does not exist, with what the person probably meant."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(near)}?" if near else ""
    return UnknownName(
        f"There is no {noun} named {name!r}.{guess}", next=next or f"known: {', '.join(known) or 'none'}"
    )
