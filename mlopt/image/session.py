"""Requests to one registry: who one is, what is tried again, and what a refusal means.

Standard library alone. Proxies and certificates come from the environment (HTTPS_PROXY, SSL_CERT_FILE).
"""

from __future__ import annotations

import errno
import http.client
import json
import re
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from importlib import metadata
from typing import IO, Final, TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from mlopt.errors import RegistryFailed
from mlopt.image.credentials import Credentials, config_file, credentials_for
from mlopt.image.reference import is_loopback, scheme_of

# Waits of 0.25, 0.5, 1 and 2 s between the tries, or as long as the registry asks for.
TRIES: Final = 5
_FIRST_WAIT: Final = 0.25
_LONGEST_WAIT: Final = 30.0
_SECONDS: Final = 60
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Message
    body: bytes


class Passing(Exception):
    """It failed, and may not the next time; `error` is for when it does. `pause` is what the registry asked for."""

    def __init__(self, reason: str, pause: float | None, error: RegistryFailed) -> None:
        super().__init__(reason)
        self.reason, self.pause, self.error = reason, pause, error


class _Lost(Exception):
    """No whole answer came. `passing` says that trying again may help."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.reason, self.passing = reason, passing


@dataclass(slots=True)
class Session:
    """Talks to one repository of a registry. Not frozen: it keeps the token that it was given.

    `say` gets a line for every try that failed and is done again.
    """

    host: str
    name: str
    say: Callable[[str], None] = lambda line: None
    _authorization: dict[str, str] = field(default_factory=dict)
    _known: Credentials | None = None

    @property
    def address(self) -> str:
        return f"{scheme_of(self.host)}://{self.host}/v2/{self.name}/"

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: tuple[int, ...] = (200,),
    ) -> Reply:
        """One request, tried again while that may help. `url` may be relative to the repository's address.

        Raises `RegistryFailed` for any answer that is not expected, or when none comes.
        """
        return self.retrying(lambda: self.attempt(method, url, headers=headers, body=body, expect=expect))

    def retrying(self, once: Callable[[], T]) -> T:
        """`once`, again after a wait while it raises `Passing`. Raises `RegistryFailed` when that does not end."""
        wait = _FIRST_WAIT
        for left in reversed(range(TRIES)):
            try:
                return once()
            except Passing as passing:
                if not left:
                    raise passing.error from passing
                pause = min(_LONGEST_WAIT, wait if passing.pause is None else passing.pause)
                self.say(f"{self.host}: {passing.reason}; again in {pause:g} s")
                time.sleep(pause)
                wait *= 2
        raise AssertionError("unreachable")

    def attempt(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        expect: tuple[int, ...] = (200,),
        sink: IO[bytes] | None = None,
    ) -> Reply:
        """As `request`, once. The body of a 200 goes to `sink` where there is one, and is not held in memory.

        Raises `Passing` for what may help to try again.
        """
        url = urljoin(self.address, url)
        try:
            reply = self._authorized(method, url, dict(headers or {}), body, sink)
        except _Lost as lost:
            error = self._no_answer(lost.reason)
            if lost.passing:
                raise Passing(lost.reason, None, error) from lost
            raise error from lost
        if reply.status in expect:
            return reply
        error = self.refused(method, url, reply)
        if reply.status in _PASSING:
            reason = f"{reply.status} {http.client.responses.get(reply.status, '')}".rstrip()
            raise Passing(reason, _asked_wait(reply), error)
        raise error

    def refused(self, method: str, url: str, reply: Reply) -> RegistryFailed:
        """What an answer that was not hoped for means to a person."""
        said = _words(reply)
        where = f"{self.host}/{self.name}"
        if reply.status == 401 and self._known is None:
            return RegistryFailed(
                f"The registry wants to know who asks, and {config_file()} has no credentials for {self.host}.",
                where=where,
                next=f"docker login {self.host}",
            )
        if reply.status == 401:
            user = self._known.user if self._known else ""
            return RegistryFailed(
                f"The registry does not accept the credentials of {user!r}. {said}".rstrip(),
                where=where,
                next=f"docker login {self.host}",
            )
        if reply.status == 403:
            return RegistryFailed(
                f"The registry does not allow this: {said or 'no reason given'}",
                where=where,
                next=f"ask for the right to do it, or: docker login {self.host}",
            )
        path = urlsplit(url).path
        return RegistryFailed(
            f"The registry answered {reply.status} to {method} {path}: {said or 'no reason given'}",
            where=where,
            next="try again later" if reply.status in _PASSING else "",
        )

    def _no_answer(self, reason: str) -> RegistryFailed:
        return RegistryFailed(
            f"The registry gives no answer: {reason}.",
            where=f"{scheme_of(self.host)}://{self.host}",
            next="look at the host's name, and whether the registry runs; http is spoken with this machine alone",
        )

    def _authorized(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, sink: IO[bytes] | None
    ) -> Reply:
        """With what the registry accepted last; when it asks who we are, once more with that."""
        reply = _send(method, url, headers, self._authorization.get(_origin(url)), body, sink)
        if reply.status != 401 or _origin(url) != _origin(self.address):
            return reply
        if not (answer := self._answer(reply)):
            return reply
        self._authorization[_origin(url)] = answer
        return _send(method, url, headers, answer, body, sink)

    def _answer(self, reply: Reply) -> str | None:
        """What to say to a challenge: Basic as it stands, Bearer after asking the place that it names for a token."""
        self._known = self._known or credentials_for(self.host)
        for challenge in reply.headers.get_all("WWW-Authenticate") or ():
            scheme, _, rest = challenge.partition(" ")
            if scheme.lower() == "bearer":
                return self._token(dict(re.findall(r'(\w+)="([^"]*)"', rest)))
            if scheme.lower() == "basic" and self._known and not self._known.identity:
                return self._known.basic
        return None

    def _token(self, challenge: Mapping[str, str]) -> str | None:
        realm = challenge.get("realm", "")
        wanted = {"service": challenge.get("service", ""), "scope": challenge.get("scope", "")}
        if not wanted["scope"]:
            wanted["scope"] = f"repository:{self.name}:pull,push"
        known = self._known
        if known and known.identity:
            form = {"grant_type": "refresh_token", "refresh_token": known.secret, "client_id": "mlopt", **wanted}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            reply = _send("POST", realm, headers, None, urlencode(form).encode())
        else:
            joint = "&" if "?" in realm else "?"
            reply = _send("GET", realm + joint + urlencode(wanted), {}, known.basic if known else None, None)
        if reply.status in _PASSING:
            raise _Lost(f"{urlsplit(realm).netloc} gave no token: {reply.status}", passing=True)
        if reply.status != 200:
            return None
        try:
            found = json.loads(reply.body)
            return f"Bearer {found.get('token') or found['access_token']}"
        except (ValueError, KeyError, AttributeError) as error:
            raise _Lost(f"{urlsplit(realm).netloc} gave no token that can be read", passing=False) from error


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Blobs may lie elsewhere, and are read there. What only asks or sends is not led on, and nothing leaves TLS."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if req.get_method() != "GET":
            return None
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _send(
    method: str,
    url: str,
    headers: Mapping[str, str],
    authorization: str | None,
    body: bytes | None,
    sink: IO[bytes] | None = None,
) -> Reply:
    _check(url)
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers))  # noqa: S310 - checked
    request.add_header("User-Agent", f"mlopt/{metadata.version('mlopt')}")
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    here = is_loopback(urlsplit(url).hostname)
    proxies = urllib.request.ProxyHandler({} if here else None)
    try:
        with urllib.request.build_opener(proxies, _Redirects).open(request, timeout=_SECONDS) as reply:
            if sink is None or reply.status != 200:
                return Reply(reply.status, reply.headers, reply.read())
            shutil.copyfileobj(reply, sink, 1 << 20)
            return Reply(reply.status, reply.headers, b"")
    except urllib.error.HTTPError as error:
        with error:
            return Reply(error.code, error.headers, error.read())
    except urllib.error.URLError as error:
        raise _lost(error.reason) from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _lost(error) from error


def _check(url: str) -> None:
    """Raises `_Lost` for an address that would send a secret in the clear."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname)):
        raise _Lost(f"it leads to {parts.scheme or 'no'}://{parts.netloc}, which is not https", passing=False)


def _lost(reason: object) -> _Lost:
    final = isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError, http.client.InvalidURL))
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return _Lost(text or type(reason).__name__, passing=not final)


def _asked_wait(reply: Reply) -> float | None:
    text = reply.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else None


def _words(reply: Reply) -> str:
    """The registry's own words, on one line."""
    try:
        told = "; ".join(str(error.get("message") or error["code"]) for error in json.loads(reply.body)["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        told = reply.body[:200].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in told).split())[:300]


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
