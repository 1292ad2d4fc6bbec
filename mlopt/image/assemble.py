"""Assemble an image for every platform on any machine: no daemon, no privilege, no emulation."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlopt.errors import StoreUnusable
from mlopt.image.base import Base, Ground
from mlopt.image.disk import writing
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import PLATFORMS, docker_folder, read_lock, read_native, read_wanted
from mlopt.image.layers import (
    Kitchen,
    Layer,
    LayerCache,
    application_layer,
    base_layer,
    model_bytes,
    model_digest,
    model_layer,
    runtime_layer,
    source_date,
)
from mlopt.image.layout import CONFIG, INDEX, MANIFEST, Descriptor, Writer, publish
from mlopt.image.native import native_layers
from mlopt.image.rootfs import Command, python_command, unpack_layers
from mlopt.image.serving import encode_serving, extras_of, grpc_ports
from mlopt.image.start import environment_of, start_of
from mlopt.request import Compression, Server


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What an image is made of. `model` is a folder (all its files ship) or one file; `serving` is serving.json, which
    names the runtime.

    `annotations` are added to the index, the manifests and the config's labels: `io.mlopt.target`, and so on.
    `base` is of the user's choice; None is our own. Its layers stay as they are, the others are of `compression`.
    """

    name: str
    model: Path
    serving: Mapping[str, Any]
    server: Server = "python"
    version: str = "1"
    platforms: tuple[str, ...] = PLATFORMS
    annotations: Mapping[str, str] = field(default_factory=dict)
    base: Base | None = None
    compression: Compression = "gzip"

    @property
    def runtime(self) -> str:
        """What runs the model in the image."""
        return str(self.serving["runtime"])

    @property
    def extras(self) -> tuple[str, ...]:
        """What the image holds beside it, for what its server is told to do."""
        return extras_of(self.serving)


@dataclass(frozen=True, slots=True)
class PlatformImage:
    """One platform's manifest digest and layers."""

    platform: str
    digest: str
    layers: tuple[Layer, ...]

    @property
    def compressed(self) -> int:
        """Bytes of all layers as a registry stores them."""
        return sum(layer.size for layer in self.layers)

    @property
    def unpacked(self) -> int:
        """Bytes of all files on disk."""
        return sum(layer.unpacked for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Image:
    """A written OCI layout. `digest` is that of the index ("sha256:…"), `reference` is name:version."""

    path: Path
    reference: str
    digest: str
    platforms: tuple[PlatformImage, ...]
    server: Server = "python"

    def as_json(self) -> dict[str, Any]:
        """The facts for a report: sizes by layer and platform, without paths."""
        return {
            "reference": self.reference,
            "digest": self.digest,
            "server": self.server,
            "platforms": [
                {
                    "platform": image.platform,
                    "digest": image.digest,
                    "compressed_bytes": image.compressed,
                    "unpacked_bytes": image.unpacked,
                    "layers": [
                        {
                            "name": layer.name,
                            "digest": f"sha256:{layer.digest}",
                            "compressed_bytes": layer.size,
                            "unpacked_bytes": layer.unpacked,
                        }
                        for layer in image.layers
                    ],
                }
                for image in self.platforms
            ],
        }


def assemble(spec: ImageSpec, into: Path, *, inputs: Inputs | None = None) -> Image:
    """Write the image as an OCI layout at `into`, in the place of what was there.

    The same spec and locks give the same digest anywhere. Raises `ImageFailed` when an input cannot be had or
    is not what was locked, `NoSpaceLeft` on a full disk; then what was at `into` stays.
    """
    inputs = inputs or Inputs()
    grounds = _grounds(spec)
    by_platform = _layers(spec, inputs, grounds)
    spec = dataclasses.replace(spec, annotations={**_found(spec), **spec.annotations})
    elsewhere = "choose another --out"
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with (
            writing(into, elsewhere=elsewhere),
            tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as scratch,
        ):
            writer = Writer(Path(scratch) / "layout")
            images = {
                platform: _write_platform(writer, spec, platform, by_platform[platform], grounds.get(platform))
                for platform in by_platform
            }
            said = {"schemaVersion": 2, "mediaType": INDEX, "annotations": _annotations(spec)}
            digest = writer.close({**said, "manifests": list(images.values())}, tag=spec.version)
            publish(writer.folder, into)
    except PermissionError as error:
        raise StoreUnusable("The image cannot be written there.", where=str(into), next=elsewhere) from error
    found = tuple(PlatformImage(name, images[name]["digest"], by_platform[name]) for name in by_platform)
    return Image(into, f"{spec.name}:{spec.version}", digest, found, spec.server)


def runtime_python(platform: str, runtime: str, *, inputs: Inputs, emulator: Sequence[str] = ()) -> Command:
    """The Python of an image of `runtime` without a model, its files unpacked below the inputs' root.

    Raises `ImageFailed` when an input cannot be had.
    """
    kitchen = kitchen_of(inputs)
    layers = (
        base_layer(kitchen, platform=platform),
        runtime_layer(kitchen, platform=platform, runtime=runtime),
        application_layer(kitchen),
    )
    environment = environment_of("python")
    return python_command(unpack_layers(layers, root=inputs.root), environment=environment, emulator=emulator)


def unpacked_sizes(spec: ImageSpec, *, inputs: Inputs) -> dict[str, int]:
    """Bytes of all files on disk, by platform, that the image will have: the model is counted, and not packed.

    Raises what `assemble` raises for inputs.
    """
    below = _layers_below(spec, kitchen_of(inputs, spec.compression), _grounds(spec))
    model = model_bytes(spec.model, encode_serving(spec.serving))
    return {platform: sum(layer.unpacked for layer in layers) + model for platform, layers in below.items()}


def kitchen_of(inputs: Inputs, compression: Compression = "gzip") -> Kitchen:
    """The declarations and locks that ship with this mlopt, over these inputs."""
    folder = docker_folder()
    return Kitchen(
        read_wanted(folder),
        read_lock(folder / "base.lock.json"),
        read_lock(folder / "runtime.lock.json"),
        read_native(folder),
        read_lock(folder / "native.lock.json"),
        inputs,
        LayerCache(inputs.root, compression),
    )


def _grounds(spec: ImageSpec) -> dict[str, Ground]:
    """The base of the user's choice for every platform; empty without one."""
    base, python = spec.base, read_wanted(docker_folder()).python if spec.server == "python" else ""
    return {platform: base.ground(platform, python=python) for platform in spec.platforms} if base else {}


def _layers(spec: ImageSpec, inputs: Inputs, grounds: Mapping[str, Ground]) -> dict[str, tuple[Layer, ...]]:
    """Every platform's layers, lowest first."""
    kitchen = kitchen_of(inputs, spec.compression)
    model = model_layer(spec.model, encode_serving(spec.serving), cache=kitchen.cache)
    return {platform: (*layers, model) for platform, layers in _layers_below(spec, kitchen, grounds).items()}


def _layers_below(spec: ImageSpec, kitchen: Kitchen, grounds: Mapping[str, Ground]) -> dict[str, tuple[Layer, ...]]:
    """What the model stands on. Platforms are packed side by side: compression is the long part."""
    application = application_layer(kitchen) if spec.server == "python" else None

    def of(platform: str) -> tuple[Layer, ...]:
        ground = grounds[platform].layers if platform in grounds else None
        if application is None:
            own, *above = native_layers(kitchen, platform=platform, runtime=spec.runtime)
            return *(ground or (own,)), *above
        runtime = runtime_layer(kitchen, platform=platform, runtime=spec.runtime, extras=spec.extras)
        return *(ground or (base_layer(kitchen, platform=platform),)), runtime, application

    with ThreadPoolExecutor(len(spec.platforms)) as pool:
        return dict(zip(spec.platforms, pool.map(of, spec.platforms), strict=True))


def _write_platform(
    writer: Writer, spec: ImageSpec, platform: str, layers: tuple[Layer, ...], ground: Ground | None
) -> Descriptor:
    system, _, architecture = platform.partition("/")
    own = _config(spec, system, architecture, layers)
    config = writer.add_json(ground.under(own) if ground else own, media_type=CONFIG)
    blobs = [
        {
            **writer.add_file(layer.blob, digest=layer.digest, size=layer.size, media_type=layer.media_type),
            "annotations": {"io.mlopt.layer": layer.name},
        }
        for layer in layers
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": blobs,
        "annotations": _annotations(spec),
    }
    descriptor = writer.add_json(manifest, media_type=MANIFEST)
    return {**descriptor, "platform": {"os": system, "architecture": architecture}}


def _config(spec: ImageSpec, system: str, architecture: str, layers: tuple[Layer, ...]) -> dict[str, Any]:
    created = _created()
    return {
        "architecture": architecture,
        "os": system,
        "created": created,
        "config": {**start_of(spec.server, grpc_ports(spec.serving)), "Labels": _annotations(spec)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [{"created": created, "created_by": f"mlopt: {layer.made_by}"} for layer in layers if layer.made_by],
    }


def _annotations(spec: ImageSpec) -> dict[str, str]:
    return {
        "org.opencontainers.image.title": spec.name,
        "org.opencontainers.image.version": spec.version,
        "org.opencontainers.image.created": _created(),
        "io.mlopt.runtime": spec.runtime,
        "io.mlopt.server": spec.server,
        **spec.annotations,
    }


def _found(spec: ImageSpec) -> dict[str, str]:
    """What the files themselves say, for those who see the image without its bundle."""
    locked = read_lock(docker_folder() / "runtime.lock.json").of(spec.platforms[0])
    versions = {package.name: package.version for package in locked}
    base = spec.base.annotations if spec.base else {}
    return {
        **base,
        "io.mlopt.model-digest": model_digest(spec.model),
        "io.mlopt.runtime-version": versions[read_wanted(docker_folder()).distribution(spec.runtime)],
    }


def _created() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(source_date()))
