"""Signatures without a key: by an identity that Sigstore's authority certifies and its log keeps. The extra [keyless].

The library of Sigstore signs and verifies. What it leaves open around a signature is pinned down here, so that every
byte of a file is one that somebody vouches for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import MissingDependency, Misused, NotVerified
from mlopt.image.layout import canonical
from mlopt.supply import dsse

_ISSUER: Final = (
    "1.3.6.1.4.1.57264.1.8",
    "1.3.6.1.4.1.57264.1.1",
)  # Fulcio's extensions: DER, and the older plain text
_ROOT: Final = "give the trusted_root.json of the Sigstore instance with --trusted-root"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who must have signed: a name (mail address or URI) and the issuer that knew it, by a root of trust."""

    name: str
    issuer: str
    verifier: Any
    logs: frozenset[str]  # how entries name the logs of the root

    @property
    def named(self) -> str:
        """Name and issuer."""
        return f"{self.name}, known to {self.issuer}"

    def unseal(self, data: bytes, *, where: Path) -> dict[str, Any]:
        """The statement in a bundle that this identity signed, by certificate and log, without a network.

        Raises `NotVerified` for one whose any byte is another.
        """
        from sigstore.models import Bundle
        from sigstore.verify import policy

        _, material = dsse.read(data, where=where)
        if "certificate" not in material:
            said = "It is signed with a key, not by an identity."
            raise NotVerified(said, where=str(where), next="mlopt verify --key PUB.pem, in place of --identity")
        issuers = [policy.OIDCIssuerV2(self.issuer), policy.OIDCIssuer(self.issuer)]
        asked = policy.AllOf([policy.Identity(identity=self.name), policy.AnyOf(issuers)])
        try:
            bundle = Bundle.from_json(data)
            kind, payload = self.verifier.verify_dsse(bundle, asked)
            whole = canonical(json.loads(bundle.to_json())) == data and self._bound(material)
            statement: dict[str, Any] = json.loads(payload)
        # The library says in many kinds of exceptions what may be wrong with a file that anybody can have written.
        except Exception as error:
            raise self._refused(material, error, where) from error
        if kind != dsse.PAYLOAD or not whole:
            raise NotVerified("What stands around the signature was changed.", where=str(where), next=dsse.NEXT)
        return statement

    def _bound(self, material: Mapping[str, Any]) -> bool:
        """Whether what the library does not compare agrees: the log's name, places in it, and its one signature."""
        (entry,) = material["tlogEntries"]
        proof = entry["inclusionProof"]
        note = proof["checkpoint"]["envelope"]
        size = note.split("\n")[1]
        places = entry["logIndex"] == proof["logIndex"] and not int(entry.get("integratedTime") or 0)
        return bool(
            entry["logId"]["keyId"] in self.logs
            and proof["treeSize"] == size
            and note == own_note(note)
            and ("inclusionPromise" in entry or places)  # a promise signs both
        )

    def _refused(self, material: Mapping[str, Any], error: Exception, where: Path) -> NotVerified:
        from sigstore.errors import CertValidationError

        try:
            name, issuer = certified(certificate(material))
        except Exception:  # whatever is there is no certificate
            return NotVerified("The certificate of the signature cannot be read.", where=str(where), next=dsse.NEXT)
        untimed, late = "verified time" in str(error), "valid at" in str(error)
        if untimed:
            said = "Nobody in the trusted root says when it was signed."
        elif isinstance(error, CertValidationError) and late:
            said = "The certificate was not valid when the log took the signature."
        elif isinstance(error, CertValidationError):
            said = "The certificate is by no authority of the trusted root."
        elif (name, issuer) != (self.name, self.issuer):
            said = f"It is signed by {name}, known to {issuer}, and not by whom you ask for."
            next = "ask who signed it; give --identity and --issuer as they stand here if they are right, too"
            return NotVerified(said, where=str(where), next=next)
        else:
            said = f"The signature does not hold: {_line(error)}."
        other = untimed or (isinstance(error, CertValidationError) and not late)
        next = f"{_ROOT}, or do not use this bundle" if other else dsse.NEXT
        return NotVerified(said, where=str(where), next=next)


def identity(name: str, issuer: str, *, trusted_root: Path) -> Identity:
    """Raises `MissingDependency` without the extra, `Misused` for a file that is no root of trust."""
    needed()
    from sigstore.models import TrustedRoot
    from sigstore.verify import Verifier

    data = _read(trusted_root, "The trusted root cannot be read")
    try:
        root = TrustedRoot.from_file(str(trusted_root))
        verifier = Verifier(trusted_root=root)
        logs = logs_of(json.loads(data))
    except Exception as error:  # pydantic's, the library's own, json's: each of them means this
        said = f"This is no trusted root of Sigstore: {_line(error)}"
        raise Misused(said, where=str(trusted_root), next=_ROOT) from error
    return Identity(name, issuer, verifier, logs)


def logs_of(root: Mapping[str, Any]) -> frozenset[str]:
    """How log entries may name the logs of a root of trust, in base64."""
    names = [log.get(key, {}).get("keyId") for log in root["tlogs"] for key in ("logId", "checkpointKeyId")]
    return frozenset(name for name in names if name)


def certified(certificate: Any) -> tuple[str, str]:
    """Name and issuer in a certificate. Raises `ValueError` for one that has none."""
    from cryptography import x509
    from cryptography.hazmat import asn1

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (found,) = names
    name = found.value.decode() if isinstance(found, x509.OtherName) else str(found.value)
    for place, oid in enumerate(_ISSUER):
        try:
            raw = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(oid)).value.value
        except x509.ExtensionNotFound:
            continue
        return name, raw.decode() if place else asn1.decode_der(str, raw)
    raise ValueError("the certificate names no issuer")


def certificate(material: Mapping[str, Any]) -> Any:
    """The one that is in a bundle. Raises `ValueError` and others for what is none."""
    from cryptography.x509 import load_der_x509_certificate

    return load_der_x509_certificate(base64.b64decode(material["certificate"]["rawBytes"], validate=True))


def own_note(note: str) -> str:
    """A log's checkpoint with the log's own signature alone: those of its witnesses nobody here can check.

    Raises `ValueError` for what is no signed checkpoint.
    """
    text, _, signatures = note.partition("\n\n")
    name = text.split("\n")[0].split(" - ")[0]
    for line in signatures.splitlines():
        dash, who, signature = line.split(" ")
        if dash == "—" and who == name:
            raw = base64.b64decode(signature, validate=True)
            return f"{text}\n\n— {name} {base64.b64encode(raw).decode()}\n"
    raise ValueError("the log did not sign its checkpoint")


def needed() -> None:
    """Raises `MissingDependency` without the extra."""
    try:
        import sigstore  # noqa: F401
    except ImportError as error:
        said = "Signatures by an identity need the extra [keyless]."
        raise MissingDependency(said, next="pip install 'mlopt[keyless]'") from error


def _read(path: Path, said: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misused(f"{said}: {error.strerror}.", where=str(path), next=_ROOT) from error


def _line(error: Exception) -> str:
    """The first line of what a library says, without its full stop."""
    said = str(error).strip() or type(error).__name__
    return said.splitlines()[0][:300].rstrip(".")
