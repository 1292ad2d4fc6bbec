"""An OCI image layout on disk: written whole, read back and verified, by the image specification 1.1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME: Final = "org.opencontainers.image.ref.name"

_LAYOUT: Final = b'{"imageLayoutVersion":"1.0.0"}\n'
Descriptor = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Writer:
    """Adds blobs to a layout that is being made in `folder`."""

    folder: Path

    def add_json(self, content: Mapping[str, Any], *, media_type: str) -> Descriptor:
        """Write a JSON blob in its one canonical form; its descriptor."""
        return self.add_bytes(canonical(content), media_type=media_type)

    def add_file(self, path: Path, *, digest: str, size: int, media_type: str) -> Descriptor:
        """Copy a blob whose sha256 is known. Raises `ImageFailed` when the file is not what it was."""
        target = self._blob(digest)
        if not target.exists():
            sha = hashlib.sha256()
            with path.open("rb") as source, target.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    sha.update(chunk)
                    sink.write(chunk)
            if sha.hexdigest() != digest:
                raise ImageFailed(
                    "A cached layer is damaged.", where=str(path), next=f"rm -r {path.parent}, then run again"
                )
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}

    def close(self, index: Mapping[str, Any], *, tag: str) -> str:
        """Write the index, the entry point that names it `tag`, and the layout file; the index's digest."""
        descriptor = self.add_json(index, media_type=INDEX)
        entry = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**descriptor, "annotations": {REF_NAME: tag}}]}
        (self.folder / "index.json").write_text(json.dumps(entry, sort_keys=True, indent=1) + "\n", encoding="utf-8")
        (self.folder / "oci-layout").write_bytes(_LAYOUT)
        return str(descriptor["digest"])

    def add_bytes(self, data: bytes, *, media_type: str) -> Descriptor:
        """Write a blob; its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        if not (target := self._blob(digest)).exists():
            target.write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def _blob(self, digest: str) -> Path:
        folder = self.folder / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / digest


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON in the one form that blobs have."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def publish(made: Path, home: Path) -> None:
    """Put a finished folder in the place of another; until then the old one stays what it was."""
    home.parent.mkdir(parents=True, exist_ok=True)
    old = made.with_name(made.name + ".old")
    if home.exists():
        os.rename(home, old)
    try:
        os.rename(made, home)
    except OSError:
        if old.exists():
            os.rename(old, home)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_blob(layout: Path, descriptor: Mapping[str, Any]) -> bytes:
    """A blob's bytes, checked. Raises `ImageFailed` when it is absent or is not what its digest says."""
    path = blob_path(layout, descriptor)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _broken(path, f"the blob cannot be read: {error.strerror}") from error
    if len(data) != descriptor["size"] or f"sha256:{hashlib.sha256(data).hexdigest()}" != descriptor["digest"]:
        raise _broken(path, "a blob is not what its digest says")
    return data


def checked_blob(layout: Path, descriptor: Mapping[str, Any]) -> Path:
    """A blob's file, however large, checked. Raises `ImageFailed` as `read_blob` does."""
    path = blob_path(layout, descriptor)
    try:
        with path.open("rb") as stream:
            digest, size = hashlib.file_digest(stream, "sha256").hexdigest(), stream.tell()
    except OSError as error:
        raise _broken(path, f"the blob cannot be read: {error.strerror}") from error
    if size != descriptor["size"] or f"sha256:{digest}" != descriptor["digest"]:
        raise _broken(path, "a blob is not what its digest says")
    return path


def referring(layout: Path) -> tuple[Descriptor, ...]:
    """The manifests that a layout holds beside its image and that are about it, or about one of its platforms: listed
    in index.json itself, or where registries without a list of referrers have them, in an index tagged `sha256-…`."""
    image = index_of(layout)
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    lists = [one for one in entries if one["mediaType"] == INDEX and one["digest"] != image["digest"]]
    below = [entry for one in lists for entry in json.loads(read_blob(layout, one))["manifests"]]
    about = {image["digest"], *(entry["digest"] for entry in manifests_of(layout).values())}
    found = [one for one in (*entries, *below) if one["mediaType"] == MANIFEST]
    subjects = ((one, json.loads(read_blob(layout, one)).get("subject") or {}) for one in found)
    return tuple(one for one, subject in subjects if subject.get("digest") in about)


def blob_path(layout: Path, descriptor: Mapping[str, Any]) -> Path:
    """Where a blob lies. Raises `ImageFailed` for a digest that is none."""
    algorithm, _, digest = str(descriptor.get("digest")).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
        raise _broken(layout, f"{descriptor.get('digest')!r} is no digest")
    return layout / "blobs" / algorithm / digest


def index_of(layout: Path) -> Descriptor:
    """The descriptor of the image index that a layout holds. Raises `ImageFailed` when it is no layout of ours."""
    try:
        if json.loads((layout / "oci-layout").read_bytes())["imageLayoutVersion"] != "1.0.0":
            raise ValueError("the layout is of another version")
        manifests = json.loads((layout / "index.json").read_bytes())["manifests"]
        descriptor: Descriptor = next(entry for entry in manifests if entry["mediaType"] == INDEX)
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise _broken(layout, f"this is not an OCI layout with an image index ({error!r})") from error
    return descriptor


def manifests_of(layout: Path) -> dict[str, Descriptor]:
    """The manifests' descriptors by platform ("linux/arm64"), checked on the way."""
    index = json.loads(read_blob(layout, index_of(layout)))
    return {platform_name(entry["platform"]): entry for entry in index["manifests"]}


def platform_name(platform: Mapping[str, str]) -> str:
    """`os/arch[/variant]`.

    >>> platform_name({"os": "linux", "architecture": "arm64"})
    'linux/arm64'
    """
    return "/".join(platform[key] for key in ("os", "architecture", "variant") if platform.get(key))


def verify(layout: Path) -> tuple[str, ...]:
    """Check every blob of a layout by size and digest, and every layer against its diff_id; the platforms.

    Raises `ImageFailed` naming the first thing that is wrong.
    """
    for descriptor in manifests_of(layout).values():
        manifest = json.loads(read_blob(layout, descriptor))
        config = json.loads(read_blob(layout, manifest["config"]))
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(manifest["layers"]):
            raise _broken(layout, "the config and the manifest disagree on the number of layers")
        for layer, diff_id in zip(manifest["layers"], diff_ids, strict=True):
            _verify_layer(layout, layer, diff_id)
    return tuple(manifests_of(layout))


def _verify_layer(layout: Path, layer: Mapping[str, Any], diff_id: str) -> None:
    import gzip
    import io
    import zlib

    data, inner = read_blob(layout, layer), hashlib.sha256()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while chunk := stream.read(1 << 20):
                inner.update(chunk)
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(blob_path(layout, layer), f"a layer cannot be decompressed: {error}") from error
    if f"sha256:{inner.hexdigest()}" != diff_id:
        raise _broken(blob_path(layout, layer), "a layer is not what the config says")


def _broken(where: Path, reason: str) -> ImageFailed:
    return ImageFailed(f"The image is damaged: {reason}.", where=str(where), next="assemble it again: mlopt compile")
