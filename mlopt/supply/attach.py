"""SBOMs and provenance, attached to an image in its layout; and found there again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from mlopt.errors import ImageFailed
from mlopt.image.layout import canonical, read_blob
from mlopt.image.referrers import Attached, Attachment, attach, attached, subjects
from mlopt.supply import cyclonedx, provenance, spdx

if TYPE_CHECKING:
    from mlopt.supply.about import About

Kind = Literal["spdx", "cyclonedx", "provenance"]

TYPES: Final[dict[Kind, str]] = {
    "spdx": spdx.MEDIA_TYPE,
    "cyclonedx": cyclonedx.MEDIA_TYPE,
    "provenance": provenance.MEDIA_TYPE,
}


def attach_documents(layout: Path, about: About) -> None:
    """Two SBOMs for every platform, about that platform's manifest, and one provenance about the whole image."""
    parts = subjects(layout)
    found = []
    for contents in about.platforms:
        subject, platform = parts[contents.platform], contents.platform
        found.append(_attachment("spdx", subject, spdx.spdx(about, contents), platform))
        found.append(_attachment("cyclonedx", subject, cyclonedx.cyclonedx(about, contents), platform))
    byproducts = [
        {
            "name": f"{one.annotations['io.mlopt.document']} of {one.annotations['io.mlopt.platform']}",
            "mediaType": one.media_type,
            "digest": {"sha256": hashlib.sha256(one.content).hexdigest()},
        }
        for one in found
    ]
    found.append(_attachment("provenance", parts[""], provenance.provenance(about, byproducts), ""))
    attach(layout, found)


def documents(layout: Path, kind: Kind, *, platform: str = "") -> list[tuple[Attached, dict[str, Any]]]:
    """What of a kind is attached, of one platform or of all. Raises `ImageFailed` where a blob is damaged."""
    return [
        (one, json.loads(read_blob(layout, one.blob)))
        for one in attached(layout)
        if one.media_type == TYPES[kind] and platform in ("", one.annotations.get("io.mlopt.platform", ""))
    ]


def document(layout: Path, kind: Kind, *, platform: str = "") -> bytes:
    """The bytes of one document. Raises `ImageFailed` when the image has none, or none of that platform."""
    found = documents(layout, kind, platform=platform)
    if not found:
        raise ImageFailed(
            f"The image has no {kind}{f' of {platform}' if platform else ''}.",
            where=str(layout),
            next="mlopt compile attaches it; or name one of " + ", ".join(name for name in subjects(layout) if name),
        )
    return read_blob(layout, found[0][0].blob)


def _attachment(kind: Kind, subject: dict[str, Any], content: dict[str, Any], platform: str) -> Attachment:
    annotations = {"io.mlopt.document": kind} | ({"io.mlopt.platform": platform} if platform else {})
    return Attachment(subject, canonical(content), TYPES[kind], annotations)
