"""Keys that sign and verify: ed25519, or ECDSA on P-256, in PEM. The extra [signing] brings what computes them."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlopt.errors import MissingDependency, Misused, NotVerified
from mlopt.image.layout import canonical
from mlopt.supply import dsse

Algorithm = Literal["ed25519", "ecdsa-p256"]

PASSWORD: Final = "MLOPT_KEY_PASSWORD"  # noqa: S105 - the name of a variable
# Names that nobody's keys have: openssl overwrites without a question.
_MAKE: Final = (
    "give a key in PEM; for a new pair: openssl genpkey -algorithm ed25519 -out new-key.pem; "
    "openssl pkey -in new-key.pem -pubout -out new-pub.pem"
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """`name` is the sha256 of its PEM, by which signatures tell whose they are."""

    algorithm: Algorithm
    name: str
    key: Any

    @property
    def named(self) -> str:
        """As much of the name as people compare."""
        return f"key {self.name[:16]}…"

    def unseal(self, data: bytes, *, where: Path) -> dict[str, Any]:
        """The statement in a bundle that this key signed. Raises `NotVerified` for one whose any byte is another."""
        envelope, material = dsse.read(data, where=where)
        if "certificate" in material:
            said = "It is signed without a key, by an identity."
            raise NotVerified(said, where=str(where), next="give --identity, --issuer and --trusted-root, not --key")
        try:
            payload = base64.b64decode(envelope["payload"], validate=True)
            signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
        except (ValueError, LookupError, TypeError) as error:
            raise dsse.no_signature(where) from error
        if not self.accepts(signature, dsse.framed(payload)):
            raise NotVerified(f"The signature is not by the {self.named}.", where=str(where), next=dsse.NEXT)
        if self.encode(payload, signature) != data:
            raise NotVerified("What stands around the signature was changed.", where=str(where), next=dsse.NEXT)
        statement: dict[str, Any] = json.loads(payload)
        return statement

    def encode(self, payload: bytes, signature: bytes) -> bytes:
        """A bundle that says which key to ask. No log has it: nothing goes over a network."""
        return canonical(
            {
                "mediaType": dsse.MEDIA_TYPE,
                "verificationMaterial": {"publicKey": {"hint": self.name}, "tlogEntries": []},
                "dsseEnvelope": {
                    "payload": base64.b64encode(payload).decode(),
                    "payloadType": dsse.PAYLOAD,
                    "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
                },
            }
        )

    def accepts(self, signature: bytes, data: bytes) -> bool:
        """Whether this key's owner signed the data."""
        from cryptography.exceptions import InvalidSignature

        try:
            if self.algorithm == "ed25519":
                self.key.verify(signature, data)
            else:
                self.key.verify(signature, data, _ecdsa())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """Signs; the same bytes for the same data, also with ECDSA (RFC 6979)."""

    public: PublicKey
    key: Any

    @property
    def named(self) -> str:
        """That of its public half."""
        return self.public.named

    @property
    def signs_models(self) -> bool:
        """The OpenSSF's verifier takes keys on elliptic curves of NIST alone."""
        return self.public.algorithm == "ecdsa-p256"

    def seal(self, statement: Mapping[str, Any]) -> bytes:
        """The bundle: the statement, its signature, and which key to ask."""
        payload = canonical(statement)
        return self.public.encode(payload, self.sign(dsse.framed(payload)))

    def sign(self, data: bytes) -> bytes:
        signature: bytes = self.key.sign(data) if self.public.algorithm == "ed25519" else self.key.sign(data, _ecdsa())
        return signature


def private_key(path: Path) -> PrivateKey:
    """Read a private key, encrypted with what $MLOPT_KEY_PASSWORD says or not at all.

    Raises `MissingDependency` without the extra, `Misused` for a file that is no such key.
    """
    _needed()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    password = os.environ.get(PASSWORD)
    key = _read(
        path,
        lambda data: load_pem_private_key(data, password.encode() if password else None),
        other=b"PUBLIC KEY",
        mistaken="This is a public key, and signing takes the private one of the pair.",
    )
    return PrivateKey(_public(key.public_key(), path) if hasattr(key, "public_key") else _refuse(path), key)


def public_key(path: Path) -> PublicKey:
    """Read a public key. Raises `MissingDependency` without the extra, `Misused` for a file that is no such key."""
    _needed()
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    mistaken = "This is a private key, which stays with who signs; checking takes the public one of the pair."
    return _public(_read(path, load_pem_public_key, other=b"PRIVATE KEY", mistaken=mistaken), path)


def _public(key: Any, path: Path) -> PublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    algorithm: Algorithm
    if isinstance(key, ed25519.Ed25519PublicKey):
        algorithm = "ed25519"
    elif isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        algorithm = "ecdsa-p256"
    else:
        _refuse(path)
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(algorithm, hashlib.sha256(pem).hexdigest(), key)


def _ecdsa() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    return ec.ECDSA(SHA256(), deterministic_signing=True)


def _read(path: Path, load: Callable[[bytes], Any], *, other: bytes, mistaken: str) -> Any:
    """The key in a file; `mistaken` is what is said of one that holds the `other` kind."""
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        data = path.read_bytes()
        if other in data:
            raise Misused(mistaken, where=str(path), next="give the other one with --key")
        return load(data)
    except OSError as error:
        raise Misused(f"The key cannot be read: {error.strerror}.", where=str(path), next=_MAKE) from error
    except TypeError as error:  # a password is missing, or there is one and the key is in the clear
        raise Misused(f"The key cannot be opened: {error}", where=str(path), next=f"set or unset {PASSWORD}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Misused("This is no key in PEM that can be used here.", where=str(path), next=_MAKE) from error


def _refuse(path: Path) -> Any:
    raise Misused("Keys are ed25519 or ECDSA on P-256; this is another kind.", where=str(path), next=_MAKE)


def _needed() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise MissingDependency("Signatures need the extra [signing].", next="pip install 'mlopt[signing]'") from error
