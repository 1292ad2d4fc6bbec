"""Hand an image to a container engine: as an archive that every Docker and podman can load."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path
from typing import IO, Any, Literal

from mlopt.errors import ImageFailed, MissingDependency
from mlopt.image.compression import decompressed
from mlopt.image.layout import MANIFEST, REF_NAME, blob_path, index_of, manifests_of, read_blob

Engine = Literal["podman", "docker"]


def load_image(layout: Path, *, engine: Engine, platform: str) -> str:
    """Load one platform of a layout into an engine; the reference to run it by.

    Raises `MissingDependency` when the engine is not installed, `ImageFailed` with its words when it refuses.
    """
    reference = local_reference(layout)
    try:
        process = subprocess.Popen(
            [engine, "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except FileNotFoundError as error:
        raise MissingDependency(f"{engine} is not installed.", next="use --engine none, or install it") from error
    assert process.stdin is not None
    try:
        with process.stdin:
            write_docker_archive(layout, process.stdin, platform=platform, reference=reference)
    except BrokenPipeError:
        pass  # The engine gave up; what it said is below.
    assert process.stdout is not None
    said = process.stdout.read().decode(errors="replace").strip()
    if process.wait():
        raise ImageFailed(f"{engine} could not load the image: {said[:500]}", where=str(layout), next=f"{engine} info")
    return reference


def write_docker_archive(layout: Path, sink: IO[bytes], *, platform: str, reference: str) -> None:
    """Write one platform in the form of `docker save`: older engines know no other. Deterministic; streamed.

    Raises `ImageFailed` for a platform that the layout does not have, or a damaged layout.
    """
    manifest = manifest_of(layout, platform)
    config = read_blob(layout, manifest["config"])
    image = json.loads(config)
    names = [f"{diff_id.removeprefix('sha256:')}.tar" for diff_id in image["rootfs"]["diff_ids"]]
    config_name = manifest["config"]["digest"].removeprefix("sha256:") + ".json"
    with tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, config_name, config)
        for name, layer in zip(names, manifest["layers"], strict=True):
            _add_layer(tar, name, blob_path(layout, layer))
        listing = [{"Config": config_name, "RepoTags": [reference], "Layers": names}]
        _add(tar, "manifest.json", json.dumps(listing).encode())


def manifest_of(layout: Path, platform: str) -> dict[str, Any]:
    """The manifest of one platform, checked. Raises `ImageFailed` when the layout does not have it."""
    manifests = manifests_of(layout)
    if platform not in manifests:
        raise ImageFailed(
            f"The image is not made for {platform}.",
            where=str(layout),
            next=f"it has {', '.join(manifests)}; choose one of them",
        )
    manifest: dict[str, Any] = json.loads(read_blob(layout, manifests[platform]))
    assert manifest["mediaType"] == MANIFEST
    return manifest


def local_reference(layout: Path) -> str:
    """`localhost/mlopt/NAME:VERSION`: a name that no engine looks for elsewhere.

    Characters that a reference cannot hold become `-`.
    """
    index = index_of(layout)
    title = json.loads(read_blob(layout, index))["annotations"]["org.opencontainers.image.title"]
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "model"
    tag = re.sub(r"[^A-Za-z0-9_.-]+", "-", index["annotations"][REF_NAME]).lstrip("-.")[:128] or "latest"
    return f"localhost/mlopt/{name}:{tag}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _add_layer(tar: tarfile.TarFile, name: str, blob: Path) -> None:
    """A layer uncompressed. Its length must stand before it, so it is decompressed twice and held never."""
    info = tarfile.TarInfo(name)
    with decompressed(blob) as stream:
        while chunk := stream.read(1 << 20):
            info.size += len(chunk)
    with decompressed(blob) as stream:
        tar.addfile(info, stream)
