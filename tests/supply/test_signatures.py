"""Signing and verifying: what is whole passes, by others' tools too; what was changed, moved or not signed does not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from supply.conftest import write_keys

from mlopt.bundle import SIGNATURE, Bundle, write_manifest
from mlopt.commands.sign import command as sign_command
from mlopt.commands.verify import command as verify_command
from mlopt.errors import Misused, ModelNotFound, NotVerified
from mlopt.image.layout import index_of
from mlopt.image.referrers import attached
from mlopt.supply import dsse
from mlopt.supply.keys import PrivateKey, private_key
from mlopt.supply.sign import sign
from mlopt.supply.verify import MODEL_SIGNATURE, verify

pytestmark = pytest.mark.slow  # each of them reads a whole image more than once


def checked(path: Path, key: PrivateKey | None = None) -> dict[str, str]:
    return {one.what: one.found for one in verify(path, key.public if key else None)}


def test_what_compile_left_is_whole(compiled: Path) -> None:
    found = checked(compiled)
    assert list(found) == ["signature", "files", "image", "sbom", "provenance", "image signature"]
    assert found["sbom"] == "spdx of linux/amd64, linux/arm64; cyclonedx of linux/amd64, linux/arm64"
    assert found["signature"] == found["image signature"] == "none"


def test_signed_it_is_still_the_same_image(bundle: Path, key: PrivateKey) -> None:
    before = index_of(bundle / "image")["digest"]
    sign(bundle, key)
    assert index_of(bundle / "image")["digest"] == before == Bundle.load(bundle).manifest["image"]["digest"]
    found = checked(bundle, key)
    assert found["signature"].startswith("bundle.json, by key")
    assert found["image signature"].startswith("image and provenance, by key")
    assert checked(bundle / "image", key)["image signature"] == found["image signature"]
    assert "not checked" in checked(bundle)["signature"]


def test_signing_again_gives_the_same_bytes_and_another_key_takes_over(
    bundle: Path, key: PrivateKey, tmp_path: Path
) -> None:
    sign(bundle, key)
    once = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    sign(bundle, key)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == once
    other = private_key(write_keys(tmp_path / "other", "ed25519"))
    sign(bundle, other)
    assert len([one for one in attached(bundle / "image") if one.media_type == dsse.MEDIA_TYPE]) == 2
    checked(bundle, other)
    with pytest.raises(NotVerified, match="not by the key"):
        checked(bundle, key)


def test_the_image_is_checked_against_its_own_signature(bundle: Path, key: PrivateKey, tmp_path: Path) -> None:
    """bundle.json signed by the right key around an image signed by another."""
    sign(bundle, private_key(write_keys(tmp_path / "other", "ed25519")))
    (bundle / MODEL_SIGNATURE).unlink(missing_ok=True)
    write_manifest(bundle, Bundle.load(bundle).manifest)
    from mlopt.supply import statements

    (bundle / SIGNATURE).write_bytes(key.seal(statements.of_bundle(bundle)))
    with pytest.raises(NotVerified, match="not by the key"):
        checked(bundle, key)


def test_the_open_model_signing_library_accepts_the_models(bundle: Path, tmp_path: Path) -> None:
    model_signing = pytest.importorskip("model_signing", reason="pip install model-signing pyopenssl")
    key_file = write_keys(tmp_path / "keys", "ecdsa-p256")
    sign(bundle, private_key(key_file))
    config = model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key_file.with_name("pub.pem"))
    config.verify(bundle / "model", bundle / MODEL_SIGNATURE)
    model = bundle / "model" / "model.onnx"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="mismatch"):
        config.verify(bundle / "model", bundle / MODEL_SIGNATURE)


def test_unsigned_is_not_verified_with_a_key(bundle: Path, key: PrivateKey) -> None:
    with pytest.raises(NotVerified, match="not signed") as failure:
        checked(bundle, key)
    assert failure.value.where == str(bundle / SIGNATURE)
    with pytest.raises(NotVerified, match="the image is not signed"):
        checked(bundle / "image", key)


def test_files_that_came_went_or_changed_are_named(bundle: Path, key: PrivateKey) -> None:
    (bundle / "model" / "weights.bin").write_bytes(b"more")
    with pytest.raises(NotVerified, match="does not name this file") as failure:
        checked(bundle)
    assert failure.value.where == str(bundle / "model" / "weights.bin")
    with pytest.raises(NotVerified):
        sign(bundle, key)  # what is not whole is not vouched for
    assert not (bundle / SIGNATURE).exists()
    (bundle / "model" / "weights.bin").unlink()
    (bundle / "report.md").unlink()
    with pytest.raises(NotVerified, match="missing"):
        checked(bundle)


def test_a_blob_that_nothing_names_is_named(bundle: Path) -> None:
    stray = bundle / "image" / "blobs" / "sha256" / ("0" * 64)
    stray.write_bytes(b"")
    with pytest.raises(NotVerified, match="nothing in the image refers to") as failure:
        checked(bundle)
    assert failure.value.where == str(stray)


def test_an_image_swapped_for_another_is_found(bundle: Path, tmp_path: Path) -> None:
    """Another whole image in its place, bundle.json mended for the file: the digest that it tells of is another."""
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    manifest["image"]["digest"] = "sha256:" + "0" * 64
    (bundle / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(NotVerified, match=r"another than bundle\.json says"):
        checked(bundle)


def test_an_sbom_of_another_platform_is_found(bundle: Path) -> None:
    from mlopt.image.referrers import Attachment, attach, subjects
    from mlopt.supply.attach import document

    layout = bundle / "image"
    content = document(layout, "spdx", platform="linux/arm64")
    attach(layout, [Attachment(subjects(layout)["linux/amd64"], content, "application/spdx+json")])
    with pytest.raises(NotVerified, match="SBOM is of another image"):
        checked(layout)


def test_an_sbom_that_came_later_is_found(bundle: Path, key: PrivateKey) -> None:
    """One of the right image, with something left out: whoever signed the provenance did not list it."""
    from mlopt.image.layout import canonical
    from mlopt.image.referrers import Attachment, attach, subjects
    from mlopt.supply.attach import documents

    sign(bundle, key)
    layout = bundle / "image"
    _, document = documents(layout, "cyclonedx", platform="linux/amd64")[0]
    document["components"] = document["components"][:-1]
    content = canonical(document)
    attach(layout, [Attachment(subjects(layout)["linux/amd64"], content, "application/vnd.cyclonedx+json")])
    with pytest.raises(NotVerified, match="no provenance lists this SBOM"):
        checked(layout, key)


def test_stripped_of_its_provenance_an_sbom_is_nobodys(bundle: Path, key: PrivateKey) -> None:
    """The signature of the image alone is still right, and says nothing of what is in it."""
    from mlopt.image.referrers import detach
    from mlopt.supply.provenance import MEDIA_TYPE, PREDICATE

    sign(bundle, key)
    detach(bundle / "image", lambda one: one.media_type == MEDIA_TYPE or PREDICATE in one.annotations.values())
    with pytest.raises(NotVerified, match="no provenance lists this SBOM"):
        checked(bundle / "image", key)


def test_a_link_is_no_file_of_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (bundle / "report.md").rename(tmp_path / "report.md")
    (bundle / "report.md").symlink_to(tmp_path / "report.md")
    with pytest.raises(NotVerified, match="this is a link"):
        checked(bundle)


def test_commands(bundle: Path, key_file: Path) -> None:
    done = CliRunner().invoke(sign_command, [str(bundle), "--key", str(key_file)], catch_exceptions=False)
    assert "signed  bundle.sigstore.json" in done.output
    public = key_file.with_name("pub.pem")
    done = CliRunner().invoke(verify_command, [str(bundle), "--key", str(public)], catch_exceptions=False)
    assert done.output.count("ok  ") == len(done.output.splitlines()) >= 6
    done = CliRunner().invoke(verify_command, [str(bundle)], catch_exceptions=False)
    assert "--  signature" in done.output, "nobody looked whose it is"
    assert "ok  files" in done.output
    with pytest.raises(Misused, match="This is a private key"):
        CliRunner().invoke(verify_command, [str(bundle), "--key", str(key_file)], catch_exceptions=False)
    with pytest.raises(Misused, match="This is a public key"):
        CliRunner().invoke(sign_command, [str(bundle), "--key", str(public)], catch_exceptions=False)
    with pytest.raises(ModelNotFound):
        CliRunner().invoke(verify_command, [str(bundle / "model")], catch_exceptions=False)


@pytest.mark.skipif(not shutil.which("cosign"), reason="cosign is not installed: no independent verifier")
def test_cosign_accepts_the_bundle(bundle: Path, key: PrivateKey, key_file: Path, tmp_path: Path) -> None:
    import subprocess

    sign(bundle, key)
    root = tmp_path / "root.json"
    root.write_text('{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}')
    asked = ["cosign", "verify-blob-attestation", "--key", str(key_file.with_name("pub.pem")), "--new-bundle-format"]
    asked += ["--trusted-root", str(root), "--insecure-ignore-tlog=true", "--type", "urn:mlopt:bundle:1"]
    asked += ["--bundle", str(bundle / SIGNATURE)]
    assert subprocess.run([*asked, str(bundle / "bundle.json")], check=False).returncode == 0
    assert subprocess.run([*asked, str(bundle / "report.json")], check=False).returncode != 0
