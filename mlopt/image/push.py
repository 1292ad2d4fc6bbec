"""A layout to a registry: blobs, then manifests, then what is said about them, and the tag at the very end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlopt.errors import RegistryFailed
from mlopt.image.layout import INDEX, MANIFEST, Descriptor, checked_blob, index_of, read_blob, referring
from mlopt.image.repository import Repository
from mlopt.image.statements import Statement, attach, put_referrer
from mlopt.units import format_bytes


@dataclass(frozen=True, slots=True)
class Pushed:
    """`sent` are the bytes of blobs that were not there yet."""

    digest: str
    tag: str
    sent: int
    kept: int


def push_layout(
    layout: Path,
    repository: Repository,
    *,
    tag: str,
    said: Sequence[Statement] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Pushed:
    """Push every platform of a layout, and name it `tag` when all of it is there; what is there already is not sent.

    Raises `ImageFailed` for a damaged layout, `RegistryFailed` when the registry refuses, or has another image under
    that tag.
    """
    index = index_of(layout)
    _check_tag(repository, tag, index["digest"])
    content = json.loads(read_blob(layout, index))
    sender = _Sender(layout, repository, say)
    sent = sum(sender.manifest(entry) for entry in content["manifests"])
    repository.put(read_blob(layout, index), media_type=INDEX, wanted=index["digest"])
    for entry in referring(layout):
        sent += sender.blobs(json.loads(read_blob(layout, entry)))
        put_referrer(repository, read_blob(layout, entry))
    for statement in said:
        attach(repository, statement, subject=index)
    repository.put(read_blob(layout, index), media_type=INDEX, wanted=tag)
    return Pushed(index["digest"], tag, sent, _size(layout, content) - sent)


@dataclass(frozen=True, slots=True)
class _Sender:
    layout: Path
    repository: Repository
    say: Callable[[str], None]

    def manifest(self, entry: Descriptor) -> int:
        """Send a platform's manifest after all that it names; bytes of blobs that were sent."""
        data = read_blob(self.layout, entry)
        sent = self.blobs(json.loads(data))
        self.repository.put(data, media_type=MANIFEST, wanted=entry["digest"])
        return sent

    def blobs(self, manifest: Mapping[str, Any]) -> int:
        sent = 0
        for blob in (*manifest["layers"], manifest["config"]):
            name = (blob.get("annotations") or {}).get("io.mlopt.layer") or str(manifest.get("artifactType") or "")
            if self.repository.add_file(checked_blob(self.layout, blob), blob):
                sent += blob["size"]
                self.say(f"sent {name or 'blob'}, {format_bytes(blob['size'])}, sha256:{blob['digest'][7:19]}…")
        return sent


def _check_tag(repository: Repository, tag: str, digest: str) -> None:
    """The tag of a version names one image for ever."""
    found = repository.find(tag)
    if found and found.digest != digest:
        raise RegistryFailed(
            f"{tag} names another image already, sha256:{found.digest[7:19]}…, and the tag of a version never moves.",
            where=str(repository.reference.at(tag)),
            next="raise the version, or give it a word of its own: NAME:1.2.0-rpi5",
        )


def _size(layout: Path, index: Mapping[str, Any]) -> int:
    """Bytes of all blobs of an image and of what is about it, each counted once."""
    found: dict[str, int] = {}
    for entry in (*index["manifests"], *referring(layout)):
        manifest = json.loads(read_blob(layout, entry))
        found |= {blob["digest"]: blob["size"] for blob in (*manifest["layers"], manifest["config"])}
    return sum(found.values())
