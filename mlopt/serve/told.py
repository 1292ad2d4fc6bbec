"""What the models themselves say to the server, in their serving.json: below options and environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence

from mlopt.serve.model import NotServable, Serving
from mlopt.serve.settings import OF_PROCESS, Limits, Settings, is_said, read_settings, size, variable


def settled(arguments: list[str] | None, settings: Settings, servings: Sequence[Serving]) -> Settings:
    """The settings of the process, read from `arguments`, with what its models say where nobody else does.

    Raises `NotServable` where two of them say different things that hold for the whole process.
    """
    said = sys.argv[1:] if arguments is None else arguments
    found: dict[str, tuple[str, str]] = {}
    for serving in servings:
        for name in OF_PROCESS:
            if name not in serving.told or is_said(name, said):
                continue
            value, first = found.setdefault(name, (serving.told[name], serving.name))
            if value != serving.told[name]:
                raise NotServable(
                    f"{first} says {name} {value}, {serving.name} says {serving.told[name]}, and the process has one: "
                    f"say it with --{name}"
                )
    for_all = {name: value for name, (value, _) in found.items()}
    if servings and all("max-body" in serving.told for serving in servings):
        # No model takes more, so that all bodies together need no room for it.
        for_all["max-body"] = f"{max(size(1)(serving.told['max-body']) for serving in servings)}B"
    return read_settings(arguments, _environment(for_all)) if for_all else settings


def limits_of(arguments: list[str] | None, settings: Settings) -> Callable[[Serving], Limits]:
    """The limits of each model: its own, where nobody else says, within those of the process."""
    held = {"max-held": f"{settings.limits.held}B"}

    def limits(serving: Serving) -> Limits:
        if not serving.told:
            return settings.limits
        return read_settings(arguments, _environment({**serving.told, **held})).limits

    return limits


def _environment(told: Mapping[str, str]) -> dict[str, str]:
    return {**{variable(name): value for name, value in told.items()}, **os.environ}
