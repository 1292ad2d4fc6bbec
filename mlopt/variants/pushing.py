"""What a bundle or a layout gives to a registry: its image, the tag by the scheme, and what is said about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlopt.errors import ImageFailed
from mlopt.image.layout import index_of, read_blob
from mlopt.variants.evidence import evidence_of
from mlopt.variants.gates import gate_statement
from mlopt.variants.naming import version_tag
from mlopt.variants.variant import is_layout

if TYPE_CHECKING:
    from mlopt.image.reference import Reference
    from mlopt.image.statements import Statement


@dataclass(frozen=True, slots=True)
class Push:
    layout: Path
    tag: str
    said: tuple[Statement, ...]


def what_to_push(image: Path, reference: Reference, *, gate: Path | None = None) -> Push:
    """Raises `ImageFailed`, `ModelNotFound`, `Misused`, and what `gate_statement` and `evidence_of` raise."""
    from mlopt.bundle import Bundle, layout_in

    layout = layout_in(image)
    index = index_of(layout)
    annotations = json.loads(read_blob(layout, index)).get("annotations") or {}
    said = []
    if not is_layout(image):
        bundle = Bundle.load(image)
        if (bundle.manifest.get("image") or {}).get("digest") != index["digest"]:
            raise ImageFailed(
                "The image in this bundle is not the one that bundle.json is about.",
                where=str(layout),
                next="compile again",
            )
        said.append(evidence_of(bundle))
    if gate:
        said.append(gate_statement(gate, annotations))
    return Push(layout, version_tag(reference, annotations), tuple(said))
