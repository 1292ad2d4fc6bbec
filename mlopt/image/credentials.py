"""Who one is to a registry: read from Docker's configuration, as `docker login` and its helpers leave it."""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from mlopt.errors import ConfigInvalid, MissingDependency

_TOKEN_USER: Final = "<token>"  # noqa: S105 - what helpers say in place of a name when the secret is a token
_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Credentials:
    """`identity`: the secret is a token of the identity provider, to be exchanged for one of the registry."""

    user: str
    secret: str = field(repr=False)
    identity: bool = False

    @property
    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def config_file() -> Path:
    """$DOCKER_CONFIG/config.json, else ~/.docker/config.json."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


def credentials_for(host: str) -> Credentials | None:
    """A helper for this host first, then the helper for all, then `auths`; None where nobody knows the host.

    Raises `ConfigInvalid` for a file that is not Docker's, `MissingDependency` for a helper that is not installed.
    """
    path = config_file()
    try:
        config = json.loads(path.read_bytes())
        helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
        entries: Mapping[str, Any] = {_host_of(key): entry for key, entry in config.get("auths", {}).items()}
        if helper and (found := _ask(str(helper), host, path)):
            return found
        return _stored(entries[host]) if entries.get(host) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, AttributeError, binascii.Error) as error:
        raise ConfigInvalid(
            f"Docker's configuration cannot be read: {error}", where=str(path), next="docker login HOST writes it anew"
        ) from error


def _host_of(key: str) -> str:
    """Keys were addresses once.

    >>> _host_of("https://registry.example/v1/"), _host_of("registry.example:5000")
    ('registry.example', 'registry.example:5000')
    """
    return urlsplit(key if "//" in key else f"//{key}").netloc


def _stored(entry: Mapping[str, str]) -> Credentials | None:
    if token := entry.get("identitytoken"):
        return Credentials(_TOKEN_USER, token, identity=True)
    if coded := entry.get("auth"):
        user, _, secret = base64.b64decode(coded, validate=True).decode().partition(":")
        return Credentials(user, secret.rstrip("\0"))
    if "username" in entry and "password" in entry:
        return Credentials(entry["username"], entry["password"])
    return None


def _ask(helper: str, host: str, path: Path) -> Credentials | None:
    """By the protocol of credential helpers: the host on stdin, JSON on stdout; failing means that it knows none."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"], input=host, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except FileNotFoundError as error:
        raise MissingDependency(
            f"Docker's configuration names the credential helper {helper}, and {program} is not installed.",
            where=str(path),
            next=f"install {program}, or remove it there and: docker login {host}",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ConfigInvalid(f"{program} gave no answer in {_SECONDS} s.", where=str(path)) from error
    if done.returncode:
        return None
    found = json.loads(done.stdout)
    if not found.get("Secret"):
        return None
    return Credentials(found["Username"], found["Secret"], identity=found["Username"] == _TOKEN_USER)
