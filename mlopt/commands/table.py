"""Columns of text that fit the terminal, for the commands that list declarations."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

import click


def echo_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns under a head; the last one wraps."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    click.secho("  ".join(title.ljust(width) for title, width in zip(head, (*widths, 0), strict=True)), bold=True)
    for row in rows:
        lead = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        _echo_wrapped(lead + "  ", row[-1])


def echo_facts(facts: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """`name  value` lines; a value with line breaks, or too long for the terminal, goes on below itself."""
    width = max((len(name) for name, _ in facts), default=0)
    for name, value in facts:
        for number, line in enumerate(value.splitlines() or [""]):
            _echo_wrapped(" " * indent + (name if number == 0 else "").ljust(width) + "  ", line)


def echo_text(text: str, *, bold: bool = False) -> None:
    """A paragraph, wrapped to the terminal."""
    _echo_wrapped("", text, bold=bold)


def echo_json(value: object) -> None:
    """Any dataclass or mapping as JSON on stdout: sizes in bytes, times in seconds, shares as fractions of one."""
    click.echo(json.dumps(_plain(value), indent=1, ensure_ascii=False))


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _echo_wrapped(lead: str, text: str, *, bold: bool = False) -> None:
    columns = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = textwrap.wrap(text, max(20, columns - len(lead)), break_long_words=False, break_on_hyphens=False) or [""]
    click.secho((lead + lines[0]).rstrip(), bold=bold)
    for line in lines[1:]:
        click.secho(" " * len(lead) + line, bold=bold)
