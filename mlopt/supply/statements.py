"""What signatures state: this bundle, this image, this model, each by its digest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from mlopt.artifact import digest_of, files
from mlopt.supply.provenance import STATEMENT

# The predicate that cosign looks for when it is asked whether an image is signed.
IMAGE: Final = "https://sigstore.dev/cosign/sign/v1"
MODEL: Final = "https://model_signing/signature/v1.0"
BUNDLE: Final = "urn:mlopt:bundle:1"


def of_bundle(folder: Path) -> dict[str, Any]:
    """bundle.json, which names every other file."""
    return _statement("bundle.json", digest_of(folder / "bundle.json"), BUNDLE, {})


def of_image(reference: str, digest: str) -> dict[str, Any]:
    """The image's index."""
    return _statement(reference, digest.removeprefix("sha256:"), IMAGE, {})


def of_model(folder: Path) -> dict[str, Any]:
    """Every file of a model's folder, in the form of the OpenSSF model signing 1.0."""
    digests = {path.relative_to(folder).as_posix(): digest_of(path) for path in files(folder)}
    whole = hashlib.sha256(b"".join(bytes.fromhex(sha256) for _, sha256 in sorted(digests.items()))).hexdigest()
    resources = [{"name": name, "algorithm": "sha256", "digest": sha256} for name, sha256 in sorted(digests.items())]
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    return _statement(folder.name, whole, MODEL, {"serialization": serialization, "resources": resources})


def _statement(name: str, sha256: str, kind: str, predicate: dict[str, Any]) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": sha256}}],
        "predicateType": kind,
        "predicate": predicate,
    }
