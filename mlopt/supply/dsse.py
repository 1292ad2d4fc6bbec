"""Signed statements: a DSSE envelope in a Sigstore bundle (v0.3), as cosign and the OpenSSF model signing have them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlopt.errors import NotVerified
from mlopt.image.layout import canonical
from mlopt.supply.keys import PrivateKey, PublicKey

MEDIA_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD: Final = "application/vnd.in-toto+json"


def seal(statement: Mapping[str, Any], key: PrivateKey) -> bytes:
    """The bundle: the statement, its signature, and which key to ask. No log has it: nothing goes over a network."""
    payload = canonical(statement)
    return _encode(payload, key.sign(_framed(payload)), key.public)


def unseal(data: bytes, key: PublicKey, *, where: Path) -> dict[str, Any]:
    """The statement in a bundle that this key signed. Raises `NotVerified` for one whose any byte is another."""
    try:
        envelope = json.loads(data)["dsseEnvelope"]
        payload = base64.b64decode(envelope["payload"], validate=True)
        signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    except (ValueError, LookupError, TypeError) as error:
        raise NotVerified("This is no signature that mlopt wrote.", where=str(where), next=_NEXT) from error
    if not key.accepts(signature, _framed(payload)):
        raise NotVerified(f"The signature is not by the key {key.name[:16]}….", where=str(where), next=_NEXT)
    if _encode(payload, signature, key) != data:
        raise NotVerified("What stands around the signature was changed.", where=str(where), next=_NEXT)
    statement: dict[str, Any] = json.loads(payload)
    return statement


_NEXT: Final = "ask who signed it for the key and the bundle anew; do not use this one"


def _framed(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _encode(payload: bytes, signature: bytes, key: PublicKey) -> bytes:
    return canonical(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": key.name}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )
