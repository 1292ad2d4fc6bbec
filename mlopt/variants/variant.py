"""A variant: one image with what is known about it, from a bundle, a layout or a registry alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from mlopt.errors import Misused, ModelNotFound
from mlopt.image.layout import Descriptor, index_of, platform_name, read_blob
from mlopt.image.reference import Reference
from mlopt.image.repository import Manifest, Repository
from mlopt.image.statements import statements
from mlopt.variants import evidence, gates
from mlopt.variants.aliases import Named, history
from mlopt.variants.naming import is_for_people, is_version

_AT_ONCE: Final = 8
Read = Callable[[Mapping[str, Any]], bytes]


@dataclass(frozen=True, slots=True)
class Layer:
    """`size` is compressed, as a registry keeps it. `made_by` tells of its packages, where it was asked for."""

    name: str
    digest: str
    size: int
    made_by: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    name: str
    digest: str
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Variant:
    """`where` is how a person finds it: a folder, or a reference. `digest` is that of its index over `platforms`;
    `aliases` are moving tags that name it now, `before` is what the alias named that it was asked for by."""

    where: str
    digest: str
    tag: str
    aliases: tuple[str, ...]
    annotations: Mapping[str, str]
    platforms: tuple[Platform, ...]
    evidence: evidence.Evidence | None
    gates: tuple[gates.Gate, ...]
    before: tuple[Named, ...] = ()

    @property
    def name(self) -> str:
        """As short as it can be said among others of one repository or folder."""
        return self.tag or self.where

    @property
    def target(self) -> str:
        return self.annotations.get("io.mlopt.target", "")

    @property
    def precision(self) -> str:
        return self.annotations.get("io.mlopt.precision", "")

    @property
    def runtime(self) -> str:
        """With its version: `onnxruntime 1.31.1`."""
        words = (self.annotations.get(f"io.mlopt.{key}", "") for key in ("runtime", "runtime-version"))
        return " ".join(filter(None, words))

    @property
    def verdict(self) -> str:
        """What the gates say together: one that failed outweighs the others."""
        found = {gate.verdict for gate in self.gates}
        return next((verdict for verdict in ("fail", "pass", "inconclusive") if verdict in found), "")

    def size(self, platform: str = "") -> int | None:
        """Compressed bytes of one platform's layers; of the largest without one. None where it has no such platform."""
        return max((one.size for one in self.platforms if platform in ("", one.name)), default=None)


def open_variant(where: str, *, say: Callable[[str], None] = lambda line: None) -> Variant:
    """A bundle, an OCI layout, or a reference to an image, with what its layers hold.

    Raises `ModelNotFound`, `ImageFailed`, `Misused`, `RegistryFailed`.
    """
    if is_folder(where):
        return _local(Path(where))
    reference = _reference(where)
    repository = Repository.open(reference, say=say)
    if not reference.wanted:
        raise ModelNotFound(
            "This is a repository, and an image is asked for.",
            where=where,
            next=f"mlopt image ls {where} shows its tags; then {where}:TAG",
        )
    found = repository.manifest(reference.wanted)
    variant = _remote(repository, found, tag=reference.tag, histories=True)
    is_alias = reference.tag and not reference.digest and not is_version(reference.tag)
    return replace(variant, before=history(repository, reference.tag)[1:]) if is_alias else variant


def variants_below(where: str, *, say: Callable[[str], None] = lambda line: None) -> tuple[Variant, ...]:
    """Every bundle with an image in a folder, or every image that has a tag in a repository; sorted by name.

    Raises what `open_variant` raises.
    """
    if not is_folder(where):
        reference = _reference(where)
        if reference.wanted:
            return (open_variant(where, say=say),)
        return _tagged(Repository.open(reference, say=say))
    folder = Path(where)
    if is_layout(folder) or (folder / "bundle.json").is_file():
        return (_local(folder),)
    found = sorted({path.parent for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(f"{pattern}/bundle.json")})
    with_image = tuple(_local(path) for path in found if (path / "image").is_dir())
    if not with_image:
        raise ModelNotFound(
            "No bundle with an image is in this folder.", where=where, next="mlopt compile MODEL --target T makes one"
        )
    return with_image


def is_folder(where: str) -> bool:
    """What lies here is meant, whatever it is called; and what looks like a path and does not is no reference."""
    return Path(where).exists() or where.startswith((".", "/", "~"))


def is_layout(folder: Path) -> bool:
    return (folder / "oci-layout").is_file()


def _reference(where: str) -> Reference:
    """Raises `Misused` that says both things that it is not."""
    try:
        return Reference.parse(where)
    except Misused as error:
        raise Misused(f"There is no folder {where!r}, and: {error.what}", next=error.next) from error


def _local(folder: Path) -> Variant:
    from mlopt.bundle import Bundle, layout_in

    layout = layout_in(folder)
    index = index_of(layout)
    found = None
    if not is_layout(folder):
        said = evidence.evidence_of(Bundle.load(folder))
        found = evidence.read_evidence(said.content, where=str(folder))

    def read(descriptor: Mapping[str, Any]) -> bytes:
        return read_blob(layout, descriptor)

    content = json.loads(read(index))
    return Variant(
        where=str(folder),
        digest=index["digest"],
        tag="",
        aliases=(),
        annotations=content.get("annotations") or {},
        platforms=_platforms(content, read, read),
        evidence=found,
        gates=(),
    )


def _tagged(repository: Repository) -> tuple[Variant, ...]:
    tags = [tag for tag in repository.tags() if is_for_people(tag)]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(tags, pool.map(repository.manifest, tags), strict=True))
        names: dict[str, list[str]] = {}
        for tag, manifest in found.items():
            names.setdefault(manifest.digest, []).append(tag)
        shown = [(found[tags[0]], tags) for tags in names.values()]
        return tuple(pool.map(lambda one: _named(repository, *one), shown))


def _named(repository: Repository, manifest: Manifest, tags: list[str]) -> Variant:
    """The tag of the scheme is its name, the others are aliases."""
    tag = next((tag for tag in tags if is_version(tag)), "")
    aliases = tuple(name for name in tags if name != tag)
    return replace(_remote(repository, manifest, tag=tag, histories=False), aliases=aliases)


def _remote(repository: Repository, manifest: Manifest, *, tag: str, histories: bool) -> Variant:
    def read_manifest(descriptor: Mapping[str, Any]) -> bytes:
        return repository.manifest(str(descriptor["digest"])).data

    where = str(repository.reference.at(tag or manifest.digest))
    content = manifest.content
    said = statements(repository, manifest.digest, evidence.KIND, gates.KIND)
    return Variant(
        where=where,
        digest=manifest.digest,
        tag=tag,
        aliases=(),
        annotations=content.get("annotations") or {},
        platforms=_platforms(
            content if "manifests" in content else {"manifests": [manifest.descriptor]},
            read_manifest,
            repository.read if histories else None,
        ),
        evidence=evidence.newest([one for one in said if one.kind == evidence.KIND], where=where),
        gates=tuple(gates.read_gate(one.content, where=where) for one in said if one.kind == gates.KIND),
    )


def _platforms(index: Mapping[str, Any], read: Read, config: Read | None) -> tuple[Platform, ...]:
    """Of an index that anybody wrote; what BuildKit keeps beside the platforms is none."""
    named = [(entry, platform_name(entry.get("platform") or {})) for entry in index["manifests"]]
    return tuple(_platform(entry, name, read, config) for entry, name in named if "unknown" not in name)


def _platform(entry: Descriptor, name: str, read: Read, config: Read | None) -> Platform:
    manifest = json.loads(read(entry))
    layers = [
        Layer((layer.get("annotations") or {}).get("io.mlopt.layer", ""), layer["digest"], layer["size"])
        for layer in manifest["layers"]
    ]
    if config:
        steps = json.loads(config(manifest["config"])).get("history") or ()
        history = [step for step in steps if not step.get("empty_layer")]
        if len(history) == len(layers):  # nobody has to write one
            told = [str(step.get("created_by", "")).removeprefix("mlopt: ") for step in history]
            layers = [replace(layer, made_by=made_by) for layer, made_by in zip(layers, told, strict=True)]
    return Platform(name, entry["digest"], tuple(layers))
