"""Signing by an identity: Sigstore's library against a whole stand-in for its services, and all that can fail."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from supply.sigstores import ISSUER, MINUTE, WORKFLOW, Sigstore, serving

from mlopt.bundle import SIGNATURE
from mlopt.commands.sign import command as sign_command
from mlopt.commands.verify import command as verify_command
from mlopt.errors import Misused, NotSigned, NotVerified
from mlopt.image.layout import canonical
from mlopt.supply import identities, keyless
from mlopt.supply.identities import keyless_signer
from mlopt.supply.keys import private_key
from mlopt.supply.verify import MODEL_SIGNATURE

ME = "me@example.org"
WHERE = Path("bundle.sigstore.json")
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": "bundle.json", "digest": {"sha256": "0" * 64}}],
    "predicateType": "urn:mlopt:bundle:1",
    "predicate": {},
}


@pytest.fixture(autouse=True)
def nobodys_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CI that runs these tests may give identities, too."""
    for name in ("SIGSTORE_ID_TOKEN", "GITHUB_ACTIONS", "GITLAB_CI", "CIRCLECI", "BUILDKITE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[1, 2])
def sigstore(request: pytest.FixtureRequest) -> Iterator[Sigstore]:
    """The services, with a log of version 1 or 2 of Rekor's interface."""
    with serving(Sigstore(request.param)) as services:
        yield services


@pytest.fixture
def first() -> Iterator[Sigstore]:
    with serving(Sigstore(1)) as services:
        yield services


def sealed(sigstore: Sigstore, folder: Path, *, name: str = ME) -> tuple[bytes, Path]:
    config, root = sigstore.write(folder)
    return keyless_signer(sigstore.token(name), trust_config=config).seal(STATEMENT), root


def unsealed(data: bytes, root: Path, *, name: str = ME, issuer: str = ISSUER) -> dict[str, Any]:
    return keyless.identity(name, issuer, trusted_root=root).unseal(data, where=WHERE)


@pytest.mark.parametrize("name", [ME, WORKFLOW])
def test_what_an_identity_signed_is_verified_without_a_network(
    name: str, sigstore: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, root = sealed(sigstore, tmp_path, name=name)
    assert json.loads(data)["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"

    def connect(*_: Any) -> None:
        raise AssertionError("verifying opened a connection")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert unsealed(data, root, name=name) == STATEMENT


def test_a_token_of_the_ci_is_found(sigstore: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{sigstore.url}/token?of=job")
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "of-the-job")
    config, root = sigstore.write(tmp_path)
    signer = keyless_signer(None, trust_config=config)
    assert unsealed(signer.seal(STATEMENT), root, name=WORKFLOW) == STATEMENT
    assert signer.named == f"{WORKFLOW}, known to {ISSUER}"
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    with pytest.raises(NotSigned, match="This CI gives no identity token") as failure:
        keyless_signer(None, trust_config=config)
    assert "id-token: write" in failure.value.next


def test_another_identity_is_not_the_one(first: Sigstore, tmp_path: Path) -> None:
    data, root = sealed(first, tmp_path)
    for name, issuer in ((WORKFLOW, ISSUER), ("me@example.orG", ISSUER), (ME, "https://other.example.org")):
        with pytest.raises(NotVerified, match="It is signed by me@example"):
            unsealed(data, root, name=name, issuer=issuer)


def test_another_root_of_trust_does_not_vouch_for_it(sigstore: Sigstore, tmp_path: Path) -> None:
    data, root = sealed(sigstore, tmp_path / "a")
    with serving(Sigstore(sigstore.version)) as other:
        _, others = other.write(tmp_path / "b")
    with pytest.raises(NotVerified, match=r"no authority of the trusted root|Nobody in the trusted root") as failure:
        unsealed(data, others)
    assert "--trusted-root" in failure.value.next
    right, wrong = json.loads(root.read_text()), json.loads(others.read_text())
    for part, said in (("tlogs", "log entry"), ("ctlogs", "SCT")):
        root.write_text(json.dumps(right | {part: wrong[part]}))
        with pytest.raises(NotVerified, match=said):
            unsealed(data, root)


@pytest.mark.parametrize("shift", [11 * MINUTE, -2 * MINUTE])
@pytest.mark.parametrize("version", [1, 2])
def test_a_certificate_that_was_not_valid_vouches_for_nothing(version: int, shift: timedelta, tmp_path: Path) -> None:
    """Neither is it signed with, nor is it believed in a file that somebody else made."""
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.oidc import IdentityToken
    from sigstore.sign import SigningContext

    with serving(Sigstore(version, shift=shift)) as sigstore:
        config, root = sigstore.write(tmp_path)
        with pytest.raises(NotSigned, match="not valid when the log took"):
            keyless_signer(sigstore.token(), trust_config=config).seal(STATEMENT)
        context = SigningContext.from_trust_config(ClientTrustConfig.from_json(config.read_text()))
        with context.signer(IdentityToken(sigstore.token())) as signer:
            made = json.loads(signer.sign_dsse(Statement(canonical(STATEMENT))).to_json())
    checkpoint = made["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    checkpoint["envelope"] = keyless.own_note(checkpoint["envelope"])
    with pytest.raises(NotVerified, match="not valid when the log took"):
        unsealed(canonical(made), root)


@pytest.mark.slow
def test_no_byte_of_a_signature_is_free(sigstore: Sigstore, tmp_path: Path) -> None:
    """All of them, by a bit; where an authority gave the time, but for what stands around its own signature."""
    config, root = sigstore.write(tmp_path)
    signer = keyless_signer(sigstore.token(), trust_config=config)
    data = [signer.seal(STATEMENT) for _ in range(3)][-1]
    judge = keyless.identity(ME, ISSUER, trusted_root=root)
    begin, end = 0, 0
    if sigstore.version == 2:
        (stamp,) = json.loads(data)["verificationMaterial"]["timestampVerificationData"]["rfc3161Timestamps"]
        begin = data.index(stamp["signedTimestamp"].encode())
        end = begin + len(stamp["signedTimestamp"])
    passed = []
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        try:
            assert judge.unseal(bytes(changed), where=WHERE) == STATEMENT
            passed.append(place)
        except NotVerified:
            pass
    assert [place for place in passed if not begin <= place < end] == []
    assert len(passed) < 0.05 * (end - begin) + 1, "the timestamp is verified, too"


@pytest.mark.parametrize(
    ("change", "value"),
    [("treeSize", "13"), ("checkpoint", {"envelope": "log.example.org - 17\n12\nAAAA\n\n— log.example.org AAAA\n"})],
)
def test_what_the_library_does_not_compare_is_compared(
    change: str, value: Any, first: Sigstore, tmp_path: Path
) -> None:
    config, root = first.write(tmp_path)
    bundle = json.loads(keyless_signer(first.token(), trust_config=config).seal(STATEMENT))
    bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"][change] = value
    with pytest.raises(NotVerified):
        unsealed(canonical(bundle), root)


def test_a_witness_of_the_log_is_left_out(first: Sigstore, tmp_path: Path) -> None:
    data, root = sealed(first, tmp_path)
    bundle = json.loads(data)
    checkpoint = bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]["checkpoint"]
    assert "witness" not in checkpoint["envelope"]
    checkpoint["envelope"] += f"— witness.example.org {base64.b64encode(bytes(68)).decode()}\n"
    with pytest.raises(NotVerified, match="around the signature"):
        unsealed(canonical(bundle), root)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"exp": 1}, "expired"),
        ({"aud": "somebody-else"}, "[Aa]udience"),
        ({"iss": None}, "iss"),
    ],
)
def test_a_token_that_cannot_be_used(claims: dict[str, Any], words: str, first: Sigstore, tmp_path: Path) -> None:
    config, _ = first.write(tmp_path)
    with pytest.raises(NotSigned, match=f"The identity token cannot be used: .*{words}"):
        keyless_signer(first.token(**claims), trust_config=config)


def test_a_token_that_the_authority_refuses(first: Sigstore, tmp_path: Path) -> None:
    config, _ = first.write(tmp_path)
    forged = Sigstore(1).token()
    with pytest.raises(NotSigned, match="The authority refuses: 401, There was an error processing the identity token"):
        keyless_signer(forged, trust_config=config)
    with pytest.raises(NotSigned, match="cannot be used"):
        keyless_signer("no token", trust_config=config)
    with pytest.raises(NotSigned, match="There is no identity token") as failure:
        keyless_signer(None, trust_config=config)
    assert "SIGSTORE_ID_TOKEN" in failure.value.next


def test_no_network(first: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No authority, then no log, then no list of the public services: what is asked for first is named."""
    from mlopt.image.run import free_port

    config, _ = first.write(tmp_path)
    nowhere = f"http://127.0.0.1:{free_port()}"
    told = json.loads(config.read_text())
    told["signingConfig"]["rekorTlogUrls"][0]["url"] = nowhere
    config.write_text(json.dumps(told))
    with pytest.raises(NotSigned, match=r"The log cannot be reached\.") as failure:
        keyless_signer(first.token(), trust_config=config).seal(STATEMENT)
    assert failure.value.where == f"{nowhere}/api/v1/log/entries"
    told["signingConfig"]["caUrls"][0]["url"] = nowhere
    config.write_text(json.dumps(told))
    with pytest.raises(NotSigned, match=r"The authority cannot be reached\."):
        keyless_signer(first.token(), trust_config=config)
    monkeypatch.setenv("HTTPS_PROXY", nowhere)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(NotSigned, match="root of trust cannot be fetched"):
        keyless_signer(first.token(), trust_config=None)


def test_a_service_that_never_answers(first: Sigstore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identities, "_PATIENCE", 1.0)
    config, _ = first.write(tmp_path)
    told = json.loads(config.read_text())
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel takes the connection, and nobody reads it
        nowhere = f"http://127.0.0.1:{silent.getsockname()[1]}"
        told["signingConfig"]["rekorTlogUrls"][0]["url"] = nowhere
        config.write_text(json.dumps(told))
        with pytest.raises(NotSigned, match=r"The log did not answer within 1 seconds\."):
            keyless_signer(first.token(), trust_config=config).seal(STATEMENT)
        told["signingConfig"]["caUrls"][0]["url"] = nowhere
        config.write_text(json.dumps(told))
        with pytest.raises(NotSigned, match=r"The authority did not answer within 1 seconds\."):
            keyless_signer(first.token(), trust_config=config)


def test_services_of_another_root_are_found_before_anything_is_written(first: Sigstore, tmp_path: Path) -> None:
    config, _ = first.write(tmp_path)
    told, other = json.loads(config.read_text()), Sigstore(1)
    told["trustedRoot"]["ctlogs"] = other.trusted_root()["ctlogs"]
    config.write_text(json.dumps(told))
    with pytest.raises(NotSigned, match="The authority answers what cannot be trusted"):
        keyless_signer(first.token(), trust_config=config)
    told["trustedRoot"] = first.trusted_root() | {"tlogs": other.trusted_root()["tlogs"]}
    config.write_text(json.dumps(told))
    with pytest.raises(NotSigned, match="does not verify"):
        keyless_signer(first.token(), trust_config=config).seal(STATEMENT)


def test_files_that_are_not_what_they_should_be(first: Sigstore, tmp_path: Path) -> None:
    for text in ("", "{}", '{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}', "[1]"):
        (tmp_path / "wrong.json").write_text(text)
        with pytest.raises(Misused, match="no trusted root"):
            keyless.identity(ME, ISSUER, trusted_root=tmp_path / "wrong.json")
        with pytest.raises(Misused, match="no client trust configuration"):
            keyless_signer(first.token(), trust_config=tmp_path / "wrong.json")
    with pytest.raises(Misused, match="cannot be read"):
        keyless.identity(ME, ISSUER, trusted_root=tmp_path / "absent.json")
    with pytest.raises(Misused, match="cannot be read"):
        keyless_signer(first.token(), trust_config=tmp_path / "absent.json")


def test_keys_and_identities_are_told_apart(first: Sigstore, tmp_path: Path) -> None:
    from supply.conftest import write_keys

    data, root = sealed(first, tmp_path)
    key = private_key(write_keys(tmp_path / "keys", "ecdsa-p256"))
    with pytest.raises(NotVerified, match="signed without a key"):
        key.public.unseal(data, where=WHERE)
    with pytest.raises(NotVerified, match="signed with a key"):
        unsealed(key.seal(STATEMENT), root)
    for text in (b"", b"{}", b"[]", b'{"dsseEnvelope":{},"verificationMaterial":{"certificate":{}}}'):
        with pytest.raises(NotVerified):
            unsealed(text, root)


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--key", "k.pem", "--keyless"],
        ["--key", "k.pem", "--trust-config", "c.json"],
    ],
)
def test_signing_is_asked_for_in_one_way(options: list[str]) -> None:
    with pytest.raises(Misused):
        CliRunner().invoke(sign_command, ["out", *options], catch_exceptions=False)


def test_verifying_is_asked_for_whole() -> None:
    for options, absent in (
        (["--identity", ME], "give --issuer, --trusted-root too"),
        (["--issuer", ISSUER, "--trusted-root", "r.json"], "give --identity too"),
        (["--key", "k.pem", "--issuer", ISSUER], "leave --key or --issuer out"),
    ):
        with pytest.raises(Misused) as failure:
            CliRunner().invoke(verify_command, ["out", *options], catch_exceptions=False)
        assert failure.value.next == absent


@pytest.mark.slow
def test_commands(bundle: Path, sigstore: Sigstore, tmp_path: Path) -> None:
    """A bundle with its image; the model's signature also by the OpenSSF's library."""
    config, root = sigstore.write(tmp_path / "sigstore")
    asked = [str(bundle), "--keyless", "--trust-config", str(config)]
    env = {"SIGSTORE_ID_TOKEN": sigstore.token()}
    done = CliRunner().invoke(sign_command, asked, env=env, catch_exceptions=False)
    assert done.output.splitlines()[:4] == [
        "signed  image and provenance",
        "signed  model.sig",
        "signed  bundle.sigstore.json",
        f"by {ME}, known to {ISSUER}",
    ]
    assert f"--identity {ME} --issuer {ISSUER} --trusted-root" in done.output
    whose = ["--identity", ME, "--issuer", ISSUER, "--trusted-root", str(root)]
    done = CliRunner().invoke(verify_command, [str(bundle), *whose], catch_exceptions=False)
    assert done.output.count("ok  ") == len(done.output.splitlines()) == 7
    assert f"bundle.json, by {ME}, known to {ISSUER}" in done.output
    done = CliRunner().invoke(verify_command, [str(bundle)], catch_exceptions=False)
    assert "--  signature        bundle.sigstore.json not checked: give --key or --identity" in done.output

    model_signing = pytest.importorskip("model_signing", reason="pip install model-signing pyopenssl")
    judge = model_signing.verifying.Config().use_sigstore_verifier(identity=ME, oidc_issuer=ISSUER, trust_config=config)
    judge.verify(bundle / "model", bundle / MODEL_SIGNATURE)

    before = (bundle / SIGNATURE).read_bytes()
    old = {"SIGSTORE_ID_TOKEN": sigstore.token(exp=1)}
    with pytest.raises(NotSigned):
        CliRunner().invoke(sign_command, asked, env=old, catch_exceptions=False)
    assert (bundle / SIGNATURE).read_bytes() == before
    (bundle / "report.md").write_text("better")
    with pytest.raises(NotVerified):
        CliRunner().invoke(verify_command, [str(bundle), *whose], catch_exceptions=False)
