"""A whole Sigstore on 127.0.0.1: an issuer of tokens, an authority, its certificate log, a log and a clock.

Each does its real work with keys made for the test: the authority checks the token and the request before it certifies,
the certificate log signs what it saw, the log keeps a Merkle tree and proves inclusion in it, as version 1 of Rekor
(entries of DSSE, a signed promise with the time) or 2 (digests alone, and the time from a timestamp authority).
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import rfc8785
from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MINUTE = timedelta(minutes=1)
ISSUER = "https://issuer.example.org"
WORKFLOW = "https://code.example.org/net/.ci/release.yml@refs/heads/main"
SHA256 = ec.ECDSA(hashes.SHA256())


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def der(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status, self.message = status, message


class Sigstore:
    """`shift` sets the log's clock off the authority's; `version` is that of the log's interface."""

    def __init__(self, version: int, *, shift: timedelta = timedelta()) -> None:
        self.version, self.shift = version, shift
        self.now = datetime.now(UTC).replace(microsecond=0)
        self.tokens, self.ct = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        self.log: Any = (
            ec.generate_private_key(ec.SECP256R1()) if version == 1 else ed25519.Ed25519PrivateKey.generate()
        )
        self.root, self.root_key = authority("root", None)
        self.ca, self.ca_key = authority("intermediate", (self.root, self.root_key))
        self.clock, self.clock_key = authority("clock", (self.root, self.root_key), clock=True)
        self.origin = "log.example.org - 17" if version == 1 else "log.example.org"
        self.leaves = [hashlib.sha256(b"\0older %d" % number).digest() for number in range(11)]
        self.before = 40 if version == 1 else 0  # entries of older trees, which count in the index of version 1
        self.url = ""

    def token(self, name: str = "me@example.org", **claims: Any) -> str:
        times = {"iat": self.now - MINUTE, "exp": self.now + 5 * MINUTE}
        said = {"iss": ISSUER, "sub": name, "aud": "sigstore", **times, **claims}
        return jwt.encode({key: value for key, value in said.items() if value}, self.tokens, algorithm="ES256")

    def trusted_root(self) -> dict[str, Any]:
        valid = {"start": (self.now - 60 * MINUTE).isoformat().replace("+00:00", "Z")}
        kind = "PKIX_ECDSA_P256_SHA_256"

        def log(key: Any, details: str) -> dict[str, Any]:
            public = {"rawBytes": b64(der(key)), "keyDetails": details, "validFor": valid}
            name = {"keyId": b64(hashlib.sha256(der(key)).digest())}
            return {"baseUrl": self.url, "hashAlgorithm": "SHA2_256", "publicKey": public, "logId": name}

        def chain(*certificates: x509.Certificate) -> dict[str, Any]:
            raw = [{"rawBytes": b64(one.public_bytes(Encoding.DER))} for one in certificates]
            subject = {"organization": "example.org", "commonName": "stand-in"}
            return {"subject": subject, "uri": self.url, "certChain": {"certificates": raw}, "validFor": valid}

        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [log(self.log, kind if self.version == 1 else "PKIX_ED25519")],
            "certificateAuthorities": [chain(self.ca, self.root)],
            "ctlogs": [log(self.ct, kind)],
            "timestampAuthorities": [chain(self.clock, self.root)],
        }

    def trust_config(self) -> dict[str, Any]:
        valid = {"start": (self.now - 60 * MINUTE).isoformat().replace("+00:00", "Z")}

        def service(path: str = "", version: int = 1) -> list[dict[str, Any]]:
            entry = {"url": self.url + path, "majorApiVersion": version, "validFor": valid, "operator": "example.org"}
            return [entry]

        signing = {
            "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
            "caUrls": service(),
            "oidcUrls": service(),
            "rekorTlogUrls": service(version=self.version),
            "rekorTlogConfig": {"selector": "ANY"},
            "tsaUrls": service("/timestamp") if self.version == 2 else [],
            "tsaConfig": {"selector": "ANY"},
        }
        kind = "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"
        return {"mediaType": kind, "trustedRoot": self.trusted_root(), "signingConfig": signing}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Paths of the trust configuration, for who signs, and of the trusted root, for who verifies."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "trust_config.json").write_text(json.dumps(self.trust_config()))
        (folder / "trusted_root.json").write_text(json.dumps(self.trusted_root()))
        return folder / "trust_config.json", folder / "trusted_root.json"

    def certify(self, headers: Any, body: bytes) -> dict[str, Any]:
        """What Fulcio does: look whose token it is, and that the key is theirs; certify, with the log's word in it."""
        raw = headers["Authorization"].removeprefix("Bearer ")
        try:
            claims = jwt.decode(raw, self.tokens.public_key(), ["ES256"], audience="sigstore", issuer=ISSUER)
        except jwt.InvalidTokenError as error:
            raise Refused(401, f"There was an error processing the identity token: {error}") from error
        request = x509.load_pem_x509_csr(base64.b64decode(json.loads(body)["certificateSigningRequest"]))
        if not request.is_signature_valid:
            raise Refused(400, "The request is not signed by its key")
        name = claims["sub"]
        alternative = x509.RFC822Name(name) if "@" in name else x509.UniformResourceIdentifier(name)
        oid = "1.3.6.1.4.1.57264.1."
        plain, wrapped = claims["iss"].encode(), core.UTF8String(claims["iss"]).dump()
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.ca.subject)
            .public_key(request.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - MINUTE)
            .not_valid_after(self.now + 10 * MINUTE)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(request.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca_key.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([alternative]), critical=True)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid + "1"), plain), critical=False)
            .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid + "8"), wrapped), critical=False)
        )
        seen = builder.sign(self.ca_key, hashes.SHA256()).tbs_certificate_bytes
        listed = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2"), self._seen(seen))
        certificate = builder.add_extension(listed, critical=False).sign(self.ca_key, hashes.SHA256())
        chain = [one.public_bytes(Encoding.PEM).decode() for one in (certificate, self.ca, self.root)]
        return {"signedCertificateEmbeddedSct": {"chain": {"certificates": chain}}}

    def _seen(self, certificate: bytes) -> bytes:
        """RFC 6962: the signed certificate timestamp of a certificate without one, as an extension."""
        at = int(self.now.timestamp() * 1000)
        issuer = hashlib.sha256(der(self.ca_key)).digest()
        entry = issuer + len(certificate).to_bytes(3, "big") + certificate
        signature = self.ct.sign(struct.pack("!BBQH", 0, 0, at, 1) + entry + b"\0\0", SHA256)
        stamp = b"\0" + hashlib.sha256(der(self.ct)).digest() + struct.pack("!QH", at, 0)
        stamp += bytes([4, 3]) + struct.pack("!H", len(signature)) + signature
        return core.OctetString(struct.pack("!HH", len(stamp) + 2, len(stamp)) + stamp).dump()

    def keep(self, headers: Any, body: bytes) -> dict[str, Any]:
        """What Rekor does: check the signature, keep what it is told, prove that it is in the tree."""
        asked = json.loads(body)
        entry = self._of_envelope(asked) if self.version == 1 else self._of_digest(asked)
        leaf = rfc8785.dumps(entry)
        self.leaves.append(hashlib.sha256(b"\0" + leaf).digest())
        place, size = len(self.leaves) - 1, len(self.leaves)
        root, proof = tree(self.leaves), path(self.leaves, place)
        note = f"{self.origin}\n{size}\n{b64(root)}\n"
        known = hashlib.sha256(der(self.log)).digest()
        witness = f"— witness.example.org {b64(bytes(68))}\n"  # real logs have such, and not everybody has their keys
        checkpoint = f"{note}\n{witness}— log.example.org {b64(known[:4] + self._sign(note.encode()))}\n"
        if self.version == 2:
            return {
                "logIndex": str(place),
                "logId": {"keyId": b64(known)},
                "kindVersion": {"kind": "hashedrekord", "version": "0.0.2"},
                "inclusionProof": {
                    "logIndex": str(place),
                    "rootHash": b64(root),
                    "treeSize": str(size),
                    "hashes": [b64(one) for one in proof],
                    "checkpoint": {"envelope": checkpoint},
                },
                "canonicalizedBody": b64(leaf),
            }
        at, index = int((self.now + self.shift).timestamp()), place + self.before
        promised = {"body": b64(leaf), "integratedTime": at, "logID": known.hex(), "logIndex": index}
        shown = {"logIndex": place, "rootHash": root.hex(), "treeSize": size, "hashes": [one.hex() for one in proof]}
        checked = {"signedEntryTimestamp": b64(self._sign(rfc8785.dumps(promised)))}
        return {hashlib.sha256(leaf).hexdigest(): promised | {
            "verification": checked | {"inclusionProof": shown | {"checkpoint": checkpoint}}
        }}  # fmt: skip

    def _sign(self, data: bytes) -> bytes:
        return bytes(self.log.sign(data, SHA256) if self.version == 1 else self.log.sign(data))

    def _of_envelope(self, asked: dict[str, Any]) -> dict[str, Any]:
        proposed = asked["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        payload, verifier = base64.b64decode(envelope["payload"]), proposed["verifiers"][0]
        (signature,) = envelope["signatures"]
        key: Any = x509.load_pem_x509_certificate(base64.b64decode(verifier)).public_key()
        kind = envelope["payloadType"].encode()
        framed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
        key.verify(base64.b64decode(signature["sig"]), framed, SHA256)

        def digest(data: bytes) -> dict[str, str]:
            return {"algorithm": "sha256", "value": hashlib.sha256(data).hexdigest()}

        spec = {"envelopeHash": digest(proposed["envelope"].encode()), "payloadHash": digest(payload)}
        spec |= {"signatures": [{"signature": signature["sig"], "verifier": verifier}]}  # type: ignore[dict-item]
        return {"apiVersion": "0.0.1", "kind": "dsse", "spec": spec}

    def _of_digest(self, asked: dict[str, Any]) -> dict[str, Any]:
        from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

        told = asked["hashedRekordRequestV002"]
        raw = base64.b64decode(told["signature"]["verifier"]["x509Certificate"]["rawBytes"])
        key: Any = x509.load_der_x509_certificate(raw).public_key()
        digest = base64.b64decode(told["digest"])
        key.verify(base64.b64decode(told["signature"]["content"]), digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        data = {"algorithm": "SHA2_256", "digest": told["digest"]}
        spec = {"hashedRekordV002": {"data": data, "signature": told["signature"]}}
        return {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec}

    def timestamp(self, headers: Any, body: bytes) -> bytes:
        """RFC 3161."""
        asked = tsp.TimeStampReq.load(body)
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.3.6.1.4.1.57264.2",
                "message_imprint": asked["message_imprint"],
                "serial_number": len(self.leaves),
                "gen_time": self.now + self.shift,
                "nonce": asked["nonce"],
            }
        )
        certificate = asn1_x509.Certificate.load(self.clock.public_bytes(Encoding.DER))
        sha256 = algos.DigestAlgorithm({"algorithm": "sha256"})
        content = info.dump()
        known = tsp.ESSCertIDv2({"cert_hash": hashlib.sha256(certificate.dump()).digest()})
        attributes = cms.CMSAttributes(
            [
                {"type": "content_type", "values": ["tst_info"]},
                {"type": "message_digest", "values": [hashlib.sha256(content).digest()]},
                {"type": "signing_certificate_v2", "values": [tsp.SigningCertificateV2({"certs": [known]})]},
            ]
        )
        signer = cms.SignerInfo(
            {
                "version": "v1",
                "sid": cms.SignerIdentifier(
                    "issuer_and_serial_number",
                    {"issuer": certificate.issuer, "serial_number": certificate.serial_number},
                ),
                "digest_algorithm": sha256,
                "signed_attrs": attributes,
                "signature_algorithm": {"algorithm": "sha256_ecdsa"},
                "signature": self.clock_key.sign(attributes.dump(), SHA256),
            }
        )
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [sha256],
                "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(content)},
                "certificates": [certificate] if asked["cert_req"].native else [],
                "signer_infos": [signer],
            }
        )
        token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
        return bytes(tsp.TimeStampResp({"status": {"status": "granted"}, "time_stamp_token": token}).dump())


def authority(name: str, by: Any, *, clock: bool = False) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A certificate and its key, by another one or by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "example.org")])
    subject = x509.Name([*subject, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, issuer_key = by or (None, key)
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING if clock else ExtendedKeyUsageOID.CODE_SIGNING])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not clock, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=clock, key_cert_sign=not clock), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if issuer:
        builder = builder.add_extension(usage, critical=clock)
    return builder.sign(issuer_key, hashes.SHA256()), key


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
    no = dict.fromkeys((*others, "decipher_only"), False)
    return x509.KeyUsage(digital_signature=digital_signature, key_cert_sign=key_cert_sign, crl_sign=key_cert_sign, **no)


def tree(leaves: list[bytes]) -> bytes:
    """The root of a Merkle tree of RFC 6962."""
    if len(leaves) == 1:
        return leaves[0]
    half = _half(len(leaves))
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def path(leaves: list[bytes], place: int) -> list[bytes]:
    """What proves that the leaf at this place is in the tree."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if place < half:
        return [*path(leaves[:half], place), tree(leaves[half:])]
    return [*path(leaves[half:], place - half), tree(leaves[:half])]


def _half(count: int) -> int:
    """The largest power of two below."""
    return 1 << (count - 1).bit_length() - 1


@contextmanager
def serving(sigstore: Sigstore) -> Iterator[Sigstore]:
    """Its services at `sigstore.url`."""
    routes: dict[str, Callable[[Any, bytes], Any]] = {
        "/api/v2/signingCert": sigstore.certify,
        f"/api/v{sigstore.version}/log/entries": sigstore.keep,
        "/timestamp": sigstore.timestamp,
    }

    class Services(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                found, status = routes[self.path](self.headers, body), 201
            except Refused as error:
                found, status = {"code": error.status, "message": error.message}, error.status
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            """As a CI gives tokens to its jobs; the name in it stands for the job's."""
            known = self.headers["Authorization"] == "bearer of-the-job" and self.path.endswith("audience=sigstore")
            data = json.dumps({"value": sigstore.token(WORKFLOW)} if known else {}).encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Services)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    sigstore.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield sigstore
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
