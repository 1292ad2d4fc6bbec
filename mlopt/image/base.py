"""A base of the user's choice: an image in a registry, or an OCI layout on disk, to put the server and the model on."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mlopt.errors import BaseUnusable, ImageFailed
from mlopt.image.base_source import LayoutSource, RegistrySource, Source
from mlopt.image.compression import MEDIA_TYPES, decompressed
from mlopt.image.disk import unfinished, writing
from mlopt.image.layers import PYTHON_PATH, Layer
from mlopt.image.layout import INDEX, MANIFEST, REF_NAME, Descriptor, entries_of, is_list, platform_name
from mlopt.image.reference import Reference
from mlopt.image.rootfs import WHITEOUT

_DOCKER: Final = "application/vnd.docker.distribution.manifest"
_INDEXES: Final = (INDEX, f"{_DOCKER}.list.v2+json")
_MANIFESTS: Final = (MANIFEST, f"{_DOCKER}.v2+json")
# Docker's own names of what OCI calls otherwise; the bytes are the same.
_LAYERS: Final = {
    "application/vnd.docker.image.rootfs.diff.tar.gzip": MEDIA_TYPES["gzip"],
    "application/vnd.docker.image.rootfs.diff.tar": "application/vnd.oci.image.layer.v1.tar",
}
_KNOWN: Final = (*MEDIA_TYPES.values(), "application/vnd.oci.image.layer.v1.tar")
# What the wheels of every runtime ask the loader for, and no wheel brings.
_LIBRARIES: Final = ("libc.so.6", "libstdc++.so.6", "libgcc_s.so.1")


@dataclass(frozen=True, slots=True)
class Ground:
    """A base for one platform: what a manifest and a config begin with, and its Python where one is needed."""

    digest: str
    layers: tuple[Layer, ...]
    config: Mapping[str, Any]
    python: str

    def under(self, ours: Mapping[str, Any]) -> dict[str, Any]:
        """The config of an image on this base: ours, with its interpreter, settings, labels and history."""
        own, told = self.config.get("config") or {}, ours["config"]
        health, python = told["Healthcheck"], [self.python] if self.python else told["Entrypoint"][:1]
        return {
            **ours,
            "config": {
                **told,
                "Entrypoint": [*python, *told["Entrypoint"][1:]],
                "Healthcheck": {**health, "Test": ["CMD", *python, *health["Test"][2:]]},
                "Env": self._settings(told["Env"]),
                "Labels": {**(own.get("Labels") or {}), **told["Labels"]},
            },
            "history": [*(self.config.get("history") or ()), *ours["history"]],
        }

    def _settings(self, ours: Iterable[str]) -> list[str]:
        """The base's PATH stays. Its interpreter looks for our packages where Debian's would by itself."""
        below = _parted((self.config.get("config") or {}).get("Env") or ())
        above = {name: value for name, value in _parted(ours).items() if name != "PATH"}
        if not self.python:
            return [f"{name}={value}" for name, value in {**below, **above}.items()]
        packages = "/" + PYTHON_PATH.format(python=self.python.rpartition("python")[2])
        paths = ":".join(filter(None, (packages, below.get("PYTHONPATH"))))
        return [f"{name}={value}" for name, value in {**below, **above, "PYTHONPATH": paths}.items()]


@dataclass(frozen=True, slots=True)
class Base:
    """`name` is what the user said; `manifests` by platform. Nothing but manifests and configs has been read yet."""

    name: str
    digest: str
    manifests: Mapping[str, Descriptor]
    source: Source
    root: Path

    def ground(self, platform: str, *, python: str) -> Ground:
        """What the base is on a platform, its layers on disk. `python` is the version that it must have, if any.

        Raises `BaseUnusable` when it is not for that platform, has no such Python, or lacks what the runtimes need.
        """
        if platform not in self.manifests:
            raise self.unusable(
                f"The base has no image for {platform}, only for {', '.join(self.manifests) or 'nothing'}.",
                next="choose another --base, or a target of that architecture",
            )
        descriptor = self.manifests[platform]
        manifest, config = self._image(descriptor)
        said = platform_name({"os": config.get("os", ""), "architecture": config.get("architecture", "")})
        if said != "/".join(platform.split("/")[:2]):
            raise self.unusable(
                f"The base's image for {platform} says in its config that it is for {said or 'nothing'}."
            )
        layers = tuple(
            self._layer(blob, diff_id, number)
            for number, (blob, diff_id) in enumerate(zip(manifest["layers"], config["rootfs"]["diff_ids"], strict=True))
        )
        names = _overlaid(_kept(self._facts(layer.digest), layer.blob)["names"] for layer in layers)
        found = self._python(names, config, python) if python else ""
        self._check_libraries(names)
        return Ground(str(descriptor["digest"]), layers, config, found)

    @property
    def annotations(self) -> dict[str, str]:
        """What OCI has an image say of its base. A folder's name is of one machine, and stays out."""
        base = "org.opencontainers.image.base"
        name = {f"{base}.name": self.name} if isinstance(self.source, RegistrySource) else {}
        return {**name, f"{base}.digest": self.digest}

    def unusable(self, what: str, *, next: str = "choose another --base") -> BaseUnusable:
        return BaseUnusable(what, where=self.name, next=next)

    def _image(self, descriptor: Descriptor) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            manifest = json.loads(self.source.manifest(descriptor))
            config = json.loads(self.source.config(manifest["config"]))
            if len(manifest["layers"]) != len(config["rootfs"]["diff_ids"]):
                raise ValueError("its manifest and its config disagree on the number of layers")
            return manifest, config
        except (ValueError, KeyError, TypeError) as error:
            raise self.unusable(f"The base is not an image: {error!r}.") from error

    def _layer(self, blob: Descriptor, diff_id: str, number: int) -> Layer:
        media_type = _LAYERS.get(blob["mediaType"], blob["mediaType"])
        if media_type not in _KNOWN:
            raise self.unusable(f"Layer {number + 1} of the base is of a kind that is not known here: {media_type}.")
        path = self.source.blob(blob)
        try:
            facts = _kept(self._facts(blob["digest"]), path)
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise self.unusable(f"Layer {number + 1} of the base cannot be unpacked: {error}.") from error
        if f"sha256:{facts['diff_id']}" != diff_id:
            raise self.unusable(f"Layer {number + 1} of the base is not what its config says.")
        return Layer(
            name=f"base-{number + 1}" if number else "base",
            digest=blob["digest"].removeprefix("sha256:"),
            diff_id=facts["diff_id"],
            size=blob["size"],
            unpacked=facts["unpacked"],
            made_by="",
            blob=path,
            media_type=media_type,
        )

    def _facts(self, digest: str) -> Path:
        return self.root / "bases" / digest.removeprefix("sha256:") / "facts.json"

    def _python(self, names: set[str], config: Mapping[str, Any], python: str) -> str:
        """The path of the interpreter: the first on the base's own PATH, else where it usually is."""
        settings = _parted((config.get("config") or {}).get("Env") or ())
        folders = [folder for folder in settings.get("PATH", "").split(":") if folder.startswith("/")]
        for folder in (*folders, "/usr/local/bin", "/usr/bin"):
            if f"{folder}/python{python}".lstrip("/") in names:
                return f"{folder}/python{python}"
        raise self.unusable(
            f"The base has no python{python}, for which the wheels of the image are built.",
            next=f"choose an image with CPython {python} of a distribution with glibc, or leave out --base",
        )

    def _check_libraries(self, names: set[str]) -> None:
        have = {PurePosixPath(name).name for name in names}
        if missing := [name for name in _LIBRARIES if name not in have]:
            raise self.unusable(
                f"The base lacks {' and '.join(missing)}, which the runtimes need.",
                next="choose a base of a distribution with glibc that has libstdc++6",
            )


def open_base(
    said: str, *, root: Path, beside: Path | None = None, say: Callable[[str], None] = lambda line: None
) -> Base:
    """The base that `said` names: HOST/NAME:TAG, or the folder of an OCI layout, FOLDER or FOLDER:TAG.

    Layers are kept below `root`/bases. Raises `BaseUnusable`, `RegistryFailed`, `Misused` for what names neither.
    """
    folder, _, tag = said.partition(":")
    for path, wanted in ((Path(said), ""), (Path(folder), tag)):
        if path.is_dir():
            return _in_layout(said, path, wanted, root)
    return _in_registry(said, root, say)


def _in_layout(said: str, folder: Path, tag: str, root: Path) -> Base:
    try:
        entries = [one for one in entries_of(folder) if one["mediaType"] in (*_INDEXES, *_MANIFESTS)]
    except ImageFailed as error:
        raise BaseUnusable(error.what, where=said, next="give the folder that holds oci-layout") from error
    named = [
        (str((entry.get("annotations") or {}).get(REF_NAME, "")), entry) for entry in entries if not is_list(entry)
    ]
    images = [entry for name, entry in named if name == tag or not tag]
    if len(images) != 1:
        raise BaseUnusable(
            f"The layout has no image{f' with the tag {tag}' if tag else ''}."
            if not images
            else f"The layout has {len(images)} images, and which one is meant is not said.",
            where=said,
            next=f"name one by its tag: {folder}:TAG, of {', '.join(name for name, _ in named if name) or 'none'}",
        )
    return _opened(said, images[0], LayoutSource(folder, said), root)


def _in_registry(said: str, root: Path, say: Callable[[str], None]) -> Base:
    from mlopt.image.repository import Repository

    reference = Reference.parse(said)
    repository = Repository.open(reference, say=say)
    found = repository.manifest(reference.wanted or "latest")
    return _opened(str(reference.at(found.digest)), found.descriptor, RegistrySource(repository, root), root)


def _opened(name: str, image: Descriptor, source: Source, root: Path) -> Base:
    """The base with its platforms: those of an index, or the one that a lone manifest's config names."""
    base = Base(name, str(image["digest"]), {}, source, root)
    if image["mediaType"] in _MANIFESTS:
        _, config = base._image(image)
        names = {platform_name({"os": config.get("os", ""), "architecture": config.get("architecture", "")}): image}
        return Base(name, base.digest, names, source, root)
    try:
        entries = json.loads(source.manifest(image))["manifests"]
        images = [one for one in entries if one["mediaType"] in _MANIFESTS and one.get("platform")]
        # arm64/v8 is what everybody means by arm64; attestations are listed as images for unknown/unknown.
        names = {"/".join(platform_name(one["platform"]).split("/")[:2]): one for one in reversed(images)}
    except (ValueError, KeyError, TypeError) as error:
        raise base.unusable(f"The base is not an image: {error!r}.") from error
    return Base(name, base.digest, {key: names[key] for key in sorted(names) if "unknown" not in key}, source, root)


def _parted(lines: Iterable[str]) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in lines)


def _kept(home: Path, blob: Path) -> dict[str, Any]:
    """What a layer holds, read once: its diff_id, the bytes of its files, its names as the tar has them."""
    try:
        facts: dict[str, Any] = json.loads(home.read_bytes())
        if set(facts) == {"diff_id", "unpacked", "names"}:
            return facts
    except (OSError, ValueError):
        pass
    digest = sha256()
    with decompressed(blob) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    with decompressed(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        members = [(str(PurePosixPath(member.name)), member.size if member.isfile() else 0) for member in tar]
    facts = {
        "diff_id": digest.hexdigest(),
        "unpacked": sum(size for _, size in members),
        "names": [name for name, _ in members],
    }
    root = home.parents[2]
    with writing(root), unfinished(root) as scratch:
        (Path(scratch) / home.name).write_text(json.dumps(facts), encoding="utf-8")
        home.parent.mkdir(parents=True, exist_ok=True)
        os.replace(Path(scratch) / home.name, home)
    return facts


def _overlaid(layers: Iterable[Iterable[str]]) -> set[str]:
    """The names that are there when all layers lie over each other."""
    names: set[str] = set()
    for layer in layers:
        for name in layer:
            path = PurePosixPath(name)
            if path.name.startswith(WHITEOUT):
                gone = str(path.with_name(path.name.removeprefix(WHITEOUT)))
                names = {one for one in names if one != gone and not one.startswith(f"{gone}/")}
            else:
                names.add(name)
    return names
