"""What belongs to an image and is no part of it: SBOMs, provenance, signatures, as OCI 1.1 artifacts with a subject.

In a layout they are listed where a registry without a referrers interface has them: in an index that is tagged
`sha256-<digest of the subject>`, beside the image in index.json. The image's own blobs stay what they were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed
from mlopt.image.layout import (
    INDEX,
    MANIFEST,
    REF_NAME,
    Descriptor,
    Writer,
    blob_path,
    encode_entries,
    entries_of,
    index_of,
    is_list,
    manifests_of,
    read_blob,
)

_EMPTY: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One artifact to add: its content, of what type, and the descriptor of the manifest or index it is about."""

    subject: Descriptor
    content: bytes
    media_type: str
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attached:
    """One artifact that is there. `subject` and `digest` (of the artifact's manifest) read `sha256:…`; `blob` is the
    descriptor of its content."""

    subject: str
    digest: str
    media_type: str
    annotations: Mapping[str, str]
    blob: Descriptor


def attach(layout: Path, attachments: Iterable[Attachment]) -> None:
    """Add artifacts to a layout; one that is there already is there once."""
    by_subject = _lists(layout)
    writer = Writer(layout)
    for one in attachments:
        listed = by_subject.setdefault(one.subject["digest"], [])
        descriptor = _write(writer, one)
        if descriptor not in listed:
            listed.append(descriptor)
    _save(layout, by_subject)


def detach(layout: Path, unwanted: Callable[[Attached], bool]) -> None:
    """Take artifacts out of a layout again."""
    gone = [one for one in attached(layout) if unwanted(one)]
    by_subject = {
        subject: [entry for entry in listed if entry["digest"] not in {one.digest for one in gone}]
        for subject, listed in _lists(layout).items()
    }
    _save(layout, by_subject)
    kept = {one.blob["digest"] for one in attached(layout)}
    for one in gone:
        for descriptor in ({"digest": one.digest}, one.blob):
            if descriptor["digest"] not in kept:
                blob_path(layout, descriptor).unlink(missing_ok=True)


def attached(layout: Path) -> tuple[Attached, ...]:
    """Everything that refers to the image or to one of its platforms. Raises `ImageFailed` where a blob is damaged."""
    return tuple(
        _read(layout, subject, descriptor) for subject, listed in _lists(layout).items() for descriptor in listed
    )


def subjects(layout: Path) -> dict[str, Descriptor]:
    """What can be referred to: the image under the name "", and each platform by its own."""
    return {"": _plain(index_of(layout)), **{name: _plain(found) for name, found in manifests_of(layout).items()}}


def _plain(descriptor: Mapping[str, Any]) -> Descriptor:
    return {key: descriptor[key] for key in ("mediaType", "digest", "size")}


def _write(writer: Writer, one: Attachment) -> Descriptor:
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": one.media_type,
        "config": writer.add_bytes(b"{}", media_type=_EMPTY),
        "layers": [writer.add_bytes(one.content, media_type=one.media_type)],
        "subject": _plain(one.subject),
        "annotations": dict(one.annotations),
    }
    descriptor = writer.add_json(manifest, media_type=MANIFEST)
    return {**descriptor, "artifactType": one.media_type, "annotations": dict(one.annotations)}


def _read(layout: Path, subject: str, descriptor: Descriptor) -> Attached:
    manifest = json.loads(read_blob(layout, descriptor))
    if manifest["subject"]["digest"] != subject:
        raise ImageFailed(
            "An artifact is listed under another subject than its own.", where=str(blob_path(layout, descriptor))
        )
    return Attached(
        subject,
        descriptor["digest"],
        manifest["artifactType"],
        manifest["annotations"],
        manifest["layers"][0],
    )


def _lists(layout: Path) -> dict[str, list[Descriptor]]:
    """The descriptors of artifacts by the digest of their subject."""
    return {
        entry["annotations"][REF_NAME].replace("-", ":", 1): json.loads(read_blob(layout, entry))["manifests"]
        for entry in entries_of(layout)
        if is_list(entry)
    }


def _save(layout: Path, by_subject: Mapping[str, Sequence[Descriptor]]) -> None:
    """The lists anew, and index.json in one move; lists that nothing names any more are removed."""
    before = entries_of(layout)
    writer, entries = Writer(layout), [entry for entry in before if not is_list(entry)]
    for subject, listed in sorted(by_subject.items()):
        if listed:
            content = {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": sorted(listed, key=lambda one: one["digest"]),
            }
            descriptor = writer.add_json(content, media_type=INDEX)
            entries.append({**descriptor, "annotations": {REF_NAME: subject.replace(":", "-", 1)}})
    scratch = layout / ".index.json.new"
    scratch.write_bytes(encode_entries({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    os.replace(scratch, layout / "index.json")
    for entry in before:
        if entry["digest"] not in {kept["digest"] for kept in entries}:
            blob_path(layout, entry).unlink(missing_ok=True)
