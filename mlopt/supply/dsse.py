"""Signed statements: a DSSE envelope in a Sigstore bundle (v0.3), as cosign and the OpenSSF model signing have them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from mlopt.errors import NotVerified

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD: Final = "application/vnd.in-toto+json"
NEXT: Final = "ask who signed it for the key and the bundle anew; do not use this one"


class Signer(Protocol):
    """Who signs: a key of one's own, or an identity that somebody else vouches for."""

    @property
    def named(self) -> str:
        """Who that is, for people."""

    @property
    def signs_models(self) -> bool:
        """Whether the OpenSSF's verifier takes its signatures."""

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """The bundle: the statement, its signature, and whom to ask."""


class Vouching(Protocol):
    """Whose signatures there must be."""

    @property
    def named(self) -> str:
        """Who that is, for people."""

    def unseal(self, data: bytes, *, where: Path) -> dict[str, Any]:
        """The statement in a bundle that they signed. Raises `NotVerified` for one whose any byte is another."""


def framed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def read(data: bytes, *, where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The envelope and what stands beside it. Raises `NotVerified` for what is no Sigstore bundle."""
    try:
        found = json.loads(data)
        return dict(found["dsseEnvelope"]), dict(found["verificationMaterial"])
    except (ValueError, LookupError, TypeError) as error:
        raise no_signature(where) from error


def no_signature(where: Path) -> NotVerified:
    """Of what was not written by `mlopt sign`, whatever it is."""
    return NotVerified("This is no signature that mlopt wrote.", where=str(where), next=NEXT)
