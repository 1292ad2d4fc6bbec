"""Options that give a measured process less than this machine has: --limits-of, --limit-cores, --limit-memory."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mlopt.commands.options import limit
from mlopt.errors import MissingDependency

if TYPE_CHECKING:
    from mlopt.host import Machine
    from mlopt.measure.limits import Applied, Limits
    from mlopt.target import Target
    from mlopt.units import Bytes


def limiting(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        limit("--limit-memory", "64MB", "Bytes", "Give each model that much memory.  [no limit]"),
        click.option("--limit-cores", type=click.IntRange(1), metavar="N", help="Let it use N cores.  [no limit]"),
        click.option("--limits-of", metavar="NAME|FILE", help="Give each what this target has, as far as it can be."),
    ):
        command = option(command)
    return command


def limits_for(
    target: str | None, cores: int | None, memory: Bytes | None, machine: Machine
) -> tuple[Limits, tuple[Applied, ...]]:
    """What to measure within, and of each limit how it is applied, or why it is not; those given by themselves come
    before the target's. Raises what finding a target raises."""
    from mlopt.measure.limits import possible
    from mlopt.target import find_target

    found = find_target(target) if target else None
    if found:
        cores, memory = cores or found.cpu.cores, memory or found.memory
    limits, told = possible(cores, memory, machine)
    if not found:
        return limits, told
    python, instructions = _instructions(found, machine)
    return dataclasses.replace(limits, python=python or limits.python), (*told, instructions)


def _instructions(target: Target, machine: Machine) -> tuple[tuple[str, ...], Applied]:
    """How Python is started so that it has the instructions of a target; nothing where it has them, or cannot."""
    from mlopt.emulate.sets import here, set_like, way_for
    from mlopt.measure.limits import Applied

    asked = set_like(target.platform, target.cpu.isa)
    if not target.platform.startswith(here()):
        told = f"not of this architecture; mlopt parity MODEL --on {asked.name} compares the answers"
        return (), Applied("instructions", asked.name, False, told)
    if set(target.cpu.isa) >= set(machine.isa):
        lacks = sorted(set(target.cpu.isa) - set(machine.isa))
        told = f"this processor lacks {', '.join(lacks)}" if lacks else "this processor has these"
        return (), Applied("instructions", asked.name, not lacks, told)
    try:
        way = way_for(asked)
    except MissingDependency as error:
        return (), Applied("instructions", asked.name, False, error.what)
    told = f"{way.said}: emulated, so no time of such a processor"
    run = ("-m", "mlopt.emulate.hiding", ",".join(way.hidden)) if way.hidden else ("-m",)
    return (*way.emulator, sys.executable, *run), Applied("instructions", asked.name, True, told)
