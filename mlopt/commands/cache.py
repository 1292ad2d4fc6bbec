"""`mlopt cache`: the store of results: list, verify, clean. What it does is in mlopt/upkeep.py."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from mlopt.commands.options import storing
from mlopt.units import Bytes, Seconds, Unit, format_bytes, parse

if TYPE_CHECKING:
    from mlopt.upkeep import Entry

_AGE: Final = Unit("an age", "30d", {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400})


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A span of time as people say it: 12h, 30d."""

    name = "age"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Seconds:
        try:
            return Seconds(_AGE.parse(str(value)))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """An amount of bytes with its unit: 5GiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Bytes:
        try:
            return Bytes(int(parse(Bytes, str(value))))
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group(name="cache")
def command() -> None:
    """The store: results of steps by what made them, and what images are made from.

    All of it can be made or fetched again; removing it costs time, never a result.

    \b
      mlopt cache ls
      mlopt cache gc --older-than 30d --keep 5GiB
    """


@command.command(name="path")
@storing
def show_path(cache_dir: Path | None) -> None:
    """Print the folder."""
    click.echo(_root(cache_dir))


@command.command(name="ls")
@storing
@click.option("--json", "as_json", is_flag=True, help="The list as JSON on stdout.")
def list_entries(cache_dir: Path | None, as_json: bool) -> None:
    """What is kept, longest unused first."""
    from mlopt.upkeep import entries

    root = _root(cache_dir)
    found = entries(root)
    if as_json:
        click.echo(json.dumps({"path": str(root), "entries": [_plain(entry) for entry in found]}, indent=1))
        return
    if not found:
        click.echo(f"The store is empty: {root}")
        return
    width = max(40, min(shutil.get_terminal_size((100, 24)).columns, 120))
    column = min(width - 8 - 14 - 11 - 12, 2 + max(len(entry.made_by) for entry in found))
    column = max(column, len("made by") + 2)
    click.echo(f"{'room':<8}{'made by':<{column}}{'key':<14}{'size':>11}{'last used':>12}")
    for entry in found:
        made_by = entry.made_by if len(entry.made_by) < column else f"{entry.made_by[: column - 2]}…"
        key = entry.key.removeprefix("adopted-")[:12]
        used = _age(time.time() - entry.used)
        click.echo(f"{entry.room:<8}{made_by:<{column}}{key:<14}{format_bytes(entry.bytes):>11}{used:>12}")
    total = Bytes(sum(entry.bytes for entry in found))
    click.echo(f"\n{_count(len(found))}, {format_bytes(total)} in {root}")


@command.command(name="verify")
@storing
@click.option("--json", "as_json", is_flag=True, help="What was found as JSON on stdout.")
def verify_entries(cache_dir: Path | None, as_json: bool) -> None:
    """Hash everything again and remove what is damaged."""
    from mlopt.upkeep import verify

    root = _root(cache_dir)
    seen: list[Entry] = []
    damaged = verify(root, on_entry=seen.append)
    if as_json:
        rows = [_plain(one.entry) | {"reason": one.reason} for one in damaged]
        click.echo(json.dumps({"path": str(root), "checked": len(seen), "removed": rows}, indent=1))
        return
    for one in damaged:
        click.echo(f"removed {one.entry.room}/{one.entry.key} ({one.entry.made_by}): {one.reason}")
    word = "all whole" if not damaged else f"{len(damaged)} damaged and removed; it is made again when needed"
    click.echo(f"{_count(len(seen))} checked in {root}: {word}")


@command.command(name="gc")
@storing
@click.option("--older-than", type=Age(), metavar="30d", help="Remove what was not used for so long.")
@click.option("--keep", type=Size(), metavar="5GiB", help="Then remove the longest unused until this much is left.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="What was removed as JSON on stdout.")
def collect(
    cache_dir: Path | None, older_than: Seconds | None, keep: Bytes | None, dry_run: bool, as_json: bool
) -> None:
    """Remove what was not used for long.

    Without an option, that is 30 days. What is being made, what a process has open and what was used
    within the last hour stays.
    """
    from mlopt.upkeep import clean

    root = _root(cache_dir)
    if older_than is None and keep is None:
        older_than = Seconds(_AGE.parse("30d"))
    cleaned = clean(root, older_than=older_than, keep=keep, dry_run=dry_run)
    if as_json:
        kept = [_plain(one.entry) | {"reason": one.reason} for one in cleaned.kept]
        removed = [_plain(entry) for entry in cleaned.removed]
        facts = {"path": str(root), "dry_run": dry_run, "bytes": cleaned.bytes, "removed": removed, "kept": kept}
        click.echo(json.dumps(facts, indent=1))
        return
    verb = "would remove" if dry_run else "removed"
    for entry in cleaned.removed:
        click.echo(f"{verb} {entry.room}/{entry.key[:20]} ({entry.made_by}), {format_bytes(entry.bytes)}")
    for one in cleaned.kept:
        click.echo(f"kept {one.entry.room}/{one.entry.key[:20]} ({one.entry.made_by}): {one.reason}")
    click.echo(f"{verb} {_count(len(cleaned.removed))}, {format_bytes(cleaned.bytes)}, in {root}")


def _root(cache_dir: Path | None) -> Path:
    from mlopt.store import default_root

    return cache_dir or default_root()


def _count(number: int) -> str:
    return f"{number} {'entry' if number == 1 else 'entries'}"


def _plain(entry: Entry) -> dict[str, object]:
    return {
        "room": entry.room,
        "key": entry.key,
        "made_by": entry.made_by,
        "bytes": entry.bytes,
        "used": round(entry.used, 3),
        "path": str(entry.path),
    }


def _age(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return "just now"
