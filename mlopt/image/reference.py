"""Names of images in registries: `host[:port]/path/name[:tag][@sha256:…]`. The host is always said."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from mlopt.errors import Misused

TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")

_PART: Final = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository, or an image in it. Where there is a digest it decides, whatever the tag names by now."""

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises `Misused` that says what is wrong with it.

        >>> Reference.parse("registry.example:5000/team/net:1.2.0")
        Reference(host='registry.example:5000', name='team/net', tag='1.2.0', digest='')
        """
        host, slash, rest = text.partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost") or not _HOST.fullmatch(host):
            raise _wrong(text, "it must begin with the registry's host, and a slash")
        rest, at, digest = rest.partition("@")
        name, colon, tag = rest.partition(":")
        if not _NAME.fullmatch(name):
            raise _wrong(text, f"{name!r} is no repository name: lower case, digits, and single . _ - between them")
        if colon and not TAG.fullmatch(tag):
            raise _wrong(text, f"{tag!r} is no tag: at most 128 letters, digits and . _ -, the first no . or -")
        if at and not DIGEST.fullmatch(digest):
            raise _wrong(text, f"{digest!r} is no digest: sha256: and 64 hexadecimal digits")
        return cls(host, name, tag, digest)

    @property
    def repository(self) -> str:
        return f"{self.host}/{self.name}"

    @property
    def wanted(self) -> str:
        """What to ask the registry for: the digest, else the tag; empty for a repository."""
        return self.digest or self.tag

    def at(self, wanted: str) -> Reference:
        """The same repository at another tag or digest."""
        if DIGEST.fullmatch(wanted):
            return replace(self, tag="", digest=wanted)
        return replace(self, tag=wanted, digest="")

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def scheme_of(host: str) -> str:
    """https, but to this machine itself: what is sent there crosses no network.

    >>> scheme_of("127.0.0.1:5000"), scheme_of("localhost"), scheme_of("[::1]:80"), scheme_of("registry.example")
    ('http', 'http', 'http', 'https')
    """
    return "http" if is_loopback(urlsplit(f"//{host}").hostname) else "https"


def is_loopback(hostname: str | None) -> bool:
    try:
        return hostname == "localhost" or ipaddress.ip_address(hostname or "").is_loopback
    except ValueError:
        return False


def _wrong(text: str, reason: str) -> Misused:
    return Misused(f"{text!r} names no image in a registry: {reason}.", next="write it like HOST/NAME:TAG")
