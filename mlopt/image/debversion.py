"""The order of Debian version numbers (deb-version(7))."""

from __future__ import annotations

import re
from typing import Final

_PARTS: Final = re.compile(r"(\D*)(\d*)")

Key = tuple[int, tuple[tuple[tuple[int, ...], int], ...], tuple[tuple[tuple[int, ...], int], ...]]


def version_key(version: str) -> Key:
    """A key that sorts versions as dpkg does: epoch, upstream version, revision; `~` before everything.

    >>> version_key("1.0~rc1-1") < version_key("1.0-1") < version_key("1.0-1+deb12u2") < version_key("1:0.1")
    True
    """
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    if not dash:
        upstream, revision = rest, "0"
    return int(epoch), _key(upstream), _key(revision)


def _key(text: str) -> tuple[tuple[tuple[int, ...], int], ...]:
    # The end of a part sorts after `~` and before everything else: hence the 0 that closes each.
    pairs = [(words, digits) for words, digits in _PARTS.findall(text) if words or digits]
    return tuple(((*(_weight(char) for char in words), 0), int(digits or 0)) for words, digits in [*pairs, ("", "")])


def _weight(char: str) -> int:
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256
