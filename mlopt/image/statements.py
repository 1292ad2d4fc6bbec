"""What is said about an image without changing it: artifacts whose subject it is, by the OCI specification 1.1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlopt.image.layout import INDEX, MANIFEST, Descriptor, canonical
from mlopt.image.repository import Repository, fallback_tag

EMPTY: Final = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, slots=True)
class Statement:
    """JSON about an image. `kind` is its artifact type, and says how `content` is to be read."""

    kind: str
    content: Mapping[str, Any]
    annotations: Mapping[str, str]


def attach(repository: Repository, statement: Statement, *, subject: Descriptor) -> Descriptor:
    """Say it about an image that is in the registry. The same statement twice is one artifact.

    Raises `RegistryFailed`.
    """
    layer = repository.add_bytes(canonical(statement.content), media_type=statement.kind)
    config = repository.add_bytes(b"{}", media_type=EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": statement.kind,
        "config": config,
        "layers": [layer],
        "subject": subject,
        "annotations": dict(statement.annotations),
    }
    return put_referrer(repository, canonical(manifest))


def put_referrer(repository: Repository, data: bytes) -> Descriptor:
    """Write a manifest that has a subject, its blobs being there; where the registry keeps no list of such, in the tag
    that stands for one."""
    content = json.loads(data)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    descriptor = {
        "mediaType": MANIFEST,
        "digest": digest,
        "size": len(data),
        "artifactType": content.get("artifactType") or content["config"]["mediaType"],
        "annotations": content.get("annotations") or {},
    }
    if not repository.put(data, media_type=MANIFEST, wanted=digest):
        subject = content["subject"]["digest"]
        others = [entry for entry in repository.referrers(subject) if entry["digest"] != digest]
        listing = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [*others, descriptor]}
        repository.put(canonical(listing), media_type=INDEX, wanted=fallback_tag(subject))
    return descriptor


def statements(repository: Repository, subject: str, *kinds: str) -> list[Statement]:
    """Everything of some kinds that is said about an image, each blob checked by its digest."""
    found = []
    for entry in repository.referrers(subject):
        if (kind := str(entry.get("artifactType"))) in kinds:
            manifest = repository.manifest(entry["digest"]).content
            content = json.loads(repository.read(manifest["layers"][0]))
            found.append(Statement(kind, content, manifest.get("annotations") or {}))
    return found
