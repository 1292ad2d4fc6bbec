"""Libraries imported without those of their modules that a server never asks for: a start is importing."""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from types import ModuleType


def imported(library: str, *, without: tuple[str, ...], **attributes: object) -> None:
    """Import `library` for the first time with stand-ins in the place of some of its modules, which have these
    attributes. Who asks for those modules later gets the real ones, and a version that wants more of them at once is
    imported whole."""
    if library in sys.modules:
        return
    for name in without:
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(attributes)
    try:
        with contextlib.suppress(Exception):  # what is really wrong is said by whoever imports it next
            import_module(library)
    finally:
        for name in without:
            sys.modules.pop(name, None)
