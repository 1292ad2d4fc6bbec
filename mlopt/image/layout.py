"""An OCI image layout on disk: written whole, read back and verified, by the image specification 1.1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed
from mlopt.image.compression import MEDIA_TYPES, decompressed

INDEX: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = MEDIA_TYPES["gzip"]
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
        (self.folder / "index.json").write_bytes(encode_entries(entry))
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


def encode_entries(index: Mapping[str, Any]) -> bytes:
    """The bytes of index.json."""
    return (json.dumps(index, sort_keys=True, indent=1) + "\n").encode()


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
    found = next((one for one in entries_of(layout) if one["mediaType"] == INDEX and not is_list(one)), None)
    if found is None:
        raise _broken(layout / "index.json", "no image index is in it")
    return found


def entries_of(layout: Path) -> list[Descriptor]:
    """What index.json lists. Raises `ImageFailed` when this is no OCI layout."""
    try:
        if json.loads((layout / "oci-layout").read_bytes())["imageLayoutVersion"] != "1.0.0":
            raise ValueError("the layout is of another version")
        entries = json.loads((layout / "index.json").read_bytes())["manifests"]
        return [{**entry, "mediaType": entry["mediaType"]} for entry in entries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(layout, f"this is not an OCI layout with an image index ({error!r})") from error


def is_list(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of index.json lists what refers to a part of the image (referrers.py), and is not the image."""
    annotations = entry.get("annotations") or {}
    return entry["mediaType"] == INDEX and str(annotations.get(REF_NAME, "")).startswith("sha256-")


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
    """Check every blob of a layout by size and digest, every layer against its diff_id, and that nothing else lies
    there; the platforms. Raises `ImageFailed` naming the first thing that is wrong.
    """
    image = index_of(layout)
    try:
        blobs = {"index.json", "oci-layout"}
        layers = [pair for entry in entries_of(layout) for pair in _verify_manifest(layout, entry, blobs)]
        for layer, diff_id in layers:  # last: decompressing takes longest
            _verify_layer(layout, layer, diff_id)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise _broken(layout, f"a manifest is not one ({error!r})") from error
    for path in sorted(path for path in layout.rglob("*") if not path.is_dir()):
        if path.relative_to(layout).as_posix() not in blobs:
            raise _broken(path, "nothing in the image refers to this file")
    tag = json.loads(read_blob(layout, image)).get("annotations", {}).get("org.opencontainers.image.version")
    if tag is not None and image.get("annotations", {}).get(REF_NAME) != tag:
        raise _broken(layout / "index.json", "the tag is not the image's version")
    return tuple(manifests_of(layout))


def _verify_manifest(layout: Path, entry: Mapping[str, Any], blobs: set[str]) -> Iterator[tuple[Descriptor, str]]:
    """One index or manifest with all below it, each once, its name added to `blobs`; its layers with their diff_ids."""
    manifest = json.loads(_verified(layout, entry, blobs))
    if manifest["mediaType"] != entry["mediaType"]:
        raise _broken(blob_path(layout, entry), "its media type is another than its descriptor says")
    if manifest["mediaType"] == INDEX:
        for below in manifest["manifests"]:
            yield from _verify_manifest(layout, below, blobs)
        return
    config = json.loads(_verified(layout, manifest["config"], blobs))
    for blob in manifest["layers"]:
        blobs.add(checked_blob(layout, blob).relative_to(layout).as_posix())
    if manifest["config"]["mediaType"] == CONFIG:
        diff_ids = config["rootfs"]["diff_ids"]
        if len(diff_ids) != len(manifest["layers"]):
            raise _broken(layout, "the config and the manifest disagree on the number of layers")
        yield from zip(manifest["layers"], diff_ids, strict=True)


def _verified(layout: Path, descriptor: Mapping[str, Any], blobs: set[str]) -> bytes:
    blobs.add(blob_path(layout, descriptor).relative_to(layout).as_posix())
    return read_blob(layout, descriptor)


def _verify_layer(layout: Path, layer: Mapping[str, Any], diff_id: str) -> None:
    path, inner = blob_path(layout, layer), hashlib.sha256()
    try:
        with decompressed(path) as stream:
            while chunk := stream.read(1 << 20):
                inner.update(chunk)
    except (OSError, EOFError) as error:
        raise _broken(path, f"a layer cannot be decompressed: {error}") from error
    if f"sha256:{inner.hexdigest()}" != diff_id:
        raise _broken(path, "a layer is not what the config says")


def _broken(where: Path, reason: str) -> ImageFailed:
    return ImageFailed(f"The image is damaged: {reason}.", where=str(where), next="assemble it again: mlopt compile")
