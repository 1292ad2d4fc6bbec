"""Sign a bundle: the bundle, its image, how that was made, and the model."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlopt.bundle import SIGNATURE, Bundle, publishing, write_manifest
from mlopt.image.referrers import Attachment, attach, detach, subjects
from mlopt.supply import dsse, statements
from mlopt.supply.attach import documents
from mlopt.supply.verify import MODEL_SIGNATURE, verify

# What signing writes anew; everything else of a bundle is linked, not copied.
_OWN: Final = ("bundle.json", SIGNATURE, MODEL_SIGNATURE)


def sign(path: Path, by: dsse.Signer) -> tuple[str, ...]:
    """Sign the bundle at `path`, in the place of an earlier signature, once it is known to be whole; what was signed.

    Raises `NotVerified` for a bundle that is not what it says, and what the signer raises; then nothing is written.
    """
    bundle, signed = Bundle.load(path), []
    for _ in verify(path):
        pass
    with publishing(path) as folder:
        shutil.copytree(
            path, folder, copy_function=_link, dirs_exist_ok=True, ignore=lambda at, names: _left_out(path, at)
        )
        if bundle.image:
            signed.append("image and provenance")
            _sign_image(folder / "image", str(bundle.manifest["image"]["reference"]), by)
        if by.signs_models:
            signed.append(MODEL_SIGNATURE)
            (folder / MODEL_SIGNATURE).write_bytes(by.seal(statements.of_model(folder / "model")))
        write_manifest(folder, bundle.manifest)
        (folder / SIGNATURE).write_bytes(by.seal(statements.of_bundle(folder)))
    return (*signed, SIGNATURE)


def _sign_image(layout: Path, reference: str, by: dsse.Signer) -> None:
    detach(layout, lambda one: one.media_type == dsse.MEDIA_TYPE)
    attach(layout, _attachments(layout, reference, by))


def _attachments(layout: Path, reference: str, by: dsse.Signer) -> Iterator[Attachment]:
    image = subjects(layout)[""]
    signed = [statements.of_image(reference, image["digest"])]
    signed += [statement for _, statement in documents(layout, "provenance")]
    for statement in signed:
        kind = {
            "dev.sigstore.bundle.content": "dsse-envelope",
            "dev.sigstore.bundle.predicateType": statement["predicateType"],
        }
        yield Attachment(image, by.seal(statement), dsse.MEDIA_TYPE, kind)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _left_out(path: Path, at: str) -> set[str]:
    return set(_OWN) if Path(at) == path else set()
