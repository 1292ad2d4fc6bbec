"""`mlopt doctor`: what is installed, what each missing extra would give, and the command to get it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from mlopt.commands.options import storing
from mlopt.errors import MissingDependency
from mlopt.units import Bytes, format_bytes

if TYPE_CHECKING:
    from mlopt.installation import Extra, Package, Tool

# A compile of a model of some 50 MB with its images takes about that much.
_LITTLE_SPACE: Final = Bytes(2 * 10**9)
_LABEL: Final = 22


@click.command(name="doctor")
@storing
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON on stdout.")
def command(cache_dir: Path | None, as_json: bool) -> None:
    """What is installed, what each missing extra would give, and the command to get it.

    Ends with exit code 3 when a part of the core is missing or too old; extras and tools are never an error.
    """
    from mlopt import installation, surroundings
    from mlopt.store import default_root

    core, extras, tools = installation.core(), installation.extras(), installation.tools()
    store = _store(cache_dir or default_root())
    if as_json:
        facts = {
            "mlopt": _own_version(),
            "python": {"version": platform.python_version(), "executable": sys.executable},
            "machine": surroundings.describe(),
            "core": [asdict(package) | {"fits": package.fits} for package in core],
            "extras": [asdict(extra) | {"complete": extra.complete, "command": extra.command} for extra in extras],
            "tools": [asdict(tool) for tool in tools],
            "store": store,
            "telemetry": _telemetry(),
        }
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo(f"mlopt {_own_version()} on Python {platform.python_version()} ({sys.executable})")
        _section("this machine", {name: fact for name, fact in surroundings.describe().items() if name != "load"})
        _section("core", {package.name: _state(package) for package in core})
        _print_extras(extras)
        _print_tools(tools)
        _section("store", {"folder": str(store["path"]), "free": _free(store), "holds": _held(store)})
        _section("telemetry", _telemetry())
    _refuse_broken(core)


def _print_extras(extras: tuple[Extra, ...]) -> None:
    click.echo("\nextras")
    for extra in extras:
        state = "installed" if extra.complete else "not installed" if extra.possible else "not for this machine"
        _line(extra.name, f"{state}; {extra.gives}")
        if extra.complete or any(package.version for package in extra.packages):
            _line("", ", ".join(f"{package.name} {_state(package)}" for package in extra.packages))
        if extra.command:
            _line("", extra.command)


def _print_tools(tools: tuple[Tool, ...]) -> None:
    click.echo("\ntools of this machine")
    for tool in tools:
        _line(tool.name, f"{tool.state}; {tool.gives}")
        if tool.next:
            _line("", f"next: {tool.next}")


def _section(title: str, facts: Mapping[str, str]) -> None:
    click.echo(f"\n{title}")
    for name, fact in facts.items():
        _line(name, fact)


def _line(name: str, text: str) -> None:
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    indent = " " * (_LABEL + 2)
    # A path or a command is worth more in one piece than a straight margin, so words are never broken.
    head = f"  {name:<{_LABEL}}"
    unbroken = textwrap.TextWrapper(width, head, indent, break_long_words=False, break_on_hyphens=False)
    click.echo(unbroken.fill(text))


def _state(package: Package) -> str:
    if package.version is None:
        return f"missing (wanted {package.wanted})"
    return package.version if package.fits else f"{package.version}, too old (wanted {package.wanted})"


def _store(root: Path) -> dict[str, object]:
    """The store's folder, whether it can be written, what it holds and what is free on its disk, in bytes."""
    from mlopt.upkeep import entries

    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    found = entries(root)
    return {
        "path": str(root),
        "writable": os.access(there, os.W_OK | os.X_OK) and there.is_dir(),
        "free": shutil.disk_usage(there).free,
        "entries": len(found),
        "bytes": sum(entry.bytes for entry in found),
    }


def _free(store: Mapping[str, object]) -> str:
    free = store["free"]
    assert isinstance(free, int)
    if not store["writable"]:
        return f"{format_bytes(free)}, but the folder cannot be written: --cache-dir DIR, or set MLOPT_CACHE_DIR"
    return format_bytes(free) + (", which is little: mlopt cache gc" if free < _LITTLE_SPACE else "")


def _held(store: Mapping[str, object]) -> str:
    held = store["bytes"]
    assert isinstance(held, int)
    return f"{store['entries']} entries, {format_bytes(held)}"


def _telemetry() -> dict[str, str]:
    value = os.environ.get("ORT_DISABLE_TELEMETRY", "1")  # the command line sets 1 where nothing is said
    return {
        "onnxruntime": "off" if value == "1" else f"on: ORT_DISABLE_TELEMETRY={value} in the environment; set it to 1",
        "openvino": "off: the part that reports is never loaded",
        "litert": "has none in its Python package",
        "mlopt": "has none",
    }


def _own_version() -> str:
    from mlopt.step import installed

    return installed("mlopt") or "not installed"


def _refuse_broken(core: tuple[Package, ...]) -> None:
    if broken := [package for package in core if not package.fits]:
        wanted = " ".join(f"'{package.name}{package.wanted}'" for package in broken)
        raise MissingDependency(
            f"{' and '.join(package.name for package in broken)} of mlopt's core "
            f"{'is' if len(broken) == 1 else 'are'} missing or too old.",
            next=f"{sys.executable} -m pip install {wanted}",
        )
