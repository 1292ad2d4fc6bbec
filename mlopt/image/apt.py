"""The machine's own apt configuration: where Debian packages come from. No address is built in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ETC: Final = Path("/etc/apt")
_LINE: Final = re.compile(r"^deb\s+(?:\[(?P<options>[^]]*)]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)")


@dataclass(frozen=True, slots=True)
class Archive:
    """One URI with the suites that are read from it; `signed_by` is a keyring or empty."""

    uri: str
    suites: tuple[str, ...]
    signed_by: str = ""


def archives(etc: Path = _ETC) -> tuple[Archive, ...]:
    """Every enabled binary archive in sources.list and sources.list.d, in apt's order; none is no error."""
    found: list[Archive] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".sources":
            found.extend(_deb822(text))
        elif path.suffix == ".list":
            found.extend(_one_line(text))
    return tuple(dict.fromkeys(found))


def paragraphs(text: str) -> Iterator[dict[str, str]]:
    """The paragraphs of a Debian control file (RFC 822 style), field names in lower case, comments dropped."""
    fields: dict[str, str] = {}
    last = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        else:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()


def _deb822(text: str) -> Iterator[Archive]:
    for fields in paragraphs(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        signed = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            # A key that is written out in the file itself is not a path.
            yield Archive(uri, tuple(fields.get("suites", "").split()), signed if signed.startswith("/") else "")


def _one_line(text: str) -> Iterator[Archive]:
    for line in text.splitlines():
        if match := _LINE.match(line.strip()):
            options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
            yield Archive(match["uri"], (match["suite"],), options.get("signed-by", ""))
