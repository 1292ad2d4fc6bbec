"""API keys: who does not send one gets 401, and learns nothing from how long that took."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from mlopt.serve.model import NotServable

# What probes ask, and the page, which holds no more than the model's name and tensors.
_OPEN: Final = frozenset({"/", "/ping", "/v2/health/live", "/v2/health/ready"})
_KEY: Final = re.compile(r"[\x21-\x7e]{16,}")
_REFUSAL: Final = b'{"error":"send an API key: Authorization: Bearer KEY, or X-Api-Key: KEY"}'


def read_keys(*, file: Path | None, listed: str | None) -> tuple[str, ...]:
    """The keys of a file (one a line, `#` begins a comment) and of a list with commas. Raises `NotServable`."""
    keys: list[str] = []
    if file is not None:
        try:
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NotServable(f"the keys in {file} cannot be read: {error}") from error
        keys += [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if listed is not None:
        keys += [key.strip() for key in listed.split(",") if key.strip()]
    if (file is not None or listed is not None) and not keys:
        raise NotServable("API keys are asked for and none is given")
    for place, key in enumerate(keys):
        if not _KEY.fullmatch(key):
            raise NotServable(f"API key {place + 1} is not 16 or more printable characters without spaces")
    return tuple(keys)


class Keys:
    """The keys, to compare with."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]

    def know(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether one of these headers (names in lower case) holds one of the keys."""
        found = False
        for name, value in headers:
            if name == b"authorization" and value[:7].lower() == b"bearer ":
                value = value[7:].strip()
            elif name != b"x-api-key":
                continue
            given = hashlib.sha256(value).digest()
            # Every key is compared, and digests have one length: the time says nothing about any of them.
            for digest in self._digests:
                found |= hmac.compare_digest(given, digest)
        return found


class Keyed:
    """ASGI middleware: only requests with one of the keys pass, but for probes and the page."""

    def __init__(self, app: ASGIApp, *, keys: tuple[str, ...]) -> None:
        self._app, self._keys = app, Keys(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN or self._keys.know(scope["headers"]):
            await self._app(scope, receive, send)
            return
        headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": _REFUSAL})
