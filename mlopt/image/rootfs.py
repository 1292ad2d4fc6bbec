"""The files of an image on disk, and how to start its server from them without any container engine."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlopt.errors import ImageFailed
from mlopt.image.disk import writing
from mlopt.image.layout import blob_path, manifests_of, read_blob
from mlopt.image.load import manifest_of
from mlopt.image.tree import inside


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and the whole of its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


def unpack_rootfs(layout: Path, *, platform: str, root: Path) -> Path:
    """The unpacked files of one platform, below `root`/rootfs, by manifest digest; unpacked once.

    Raises `ImageFailed` for a damaged layout or a platform that it does not have.
    """
    manifest = manifest_of(layout, platform)
    digest: str = manifests_of(layout)[platform]["digest"].removeprefix("sha256:")
    home = root / "rootfs" / digest
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with writing(home.parent), tempfile.TemporaryDirectory(prefix=".unpack-", dir=home.parent) as scratch:
        made = Path(scratch) / "root"
        made.mkdir()
        for layer in manifest["layers"]:
            read_blob(layout, layer)
            _extract(blob_path(layout, layer), made)
        try:
            os.replace(made, home)
        except OSError:
            if not home.is_dir():
                raise
    return home


def server_command(
    layout: Path, rootfs: Path, *, platform: str, arguments: Sequence[str], emulator: Sequence[str] = ()
) -> Command:
    """The image's own entry point, started through the image's own dynamic loader: nothing of the host is used.

    `arguments` stand in for the image's Cmd. `emulator` goes before all, for another architecture's files.
    """
    config: dict[str, Any] = json.loads(read_blob(layout, manifest_of(layout, platform)["config"]))["config"]
    loaders = sorted((rootfs / "usr" / "lib").glob("*-linux-gnu/ld-linux-*.so.*"))
    if not loaders:
        raise ImageFailed(
            "The image has no dynamic loader.", where=str(rootfs), next="assemble it again: mlopt compile"
        )
    loader = loaders[0]
    entry = [str(rootfs) + word if word.startswith("/") else word for word in config["Entrypoint"]]
    environment = dict(line.split("=", 1) for line in config["Env"])
    environment["PATH"] = str(rootfs / "usr" / "bin")
    environment["PYTHONHOME"] = str(rootfs / "usr")
    start = [*emulator, str(loader), "--inhibit-cache", "--library-path", str(loader.parent), *entry, *arguments]
    return Command(tuple(start), environment)


def _extract(blob: Path, root: Path) -> None:
    """Unpack one layer. Nothing is written outside `root`, not even through a link."""
    with gzip.open(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            target = root / inside(member.name)
            if not target.parent.resolve().is_relative_to(root.resolve()):
                raise ImageFailed(f"The layer writes outside its tree: {member.name}", where=str(blob))
            if member.isdir():
                target.mkdir(exist_ok=True)
            elif member.issym():
                target.unlink(missing_ok=True)
                target.symlink_to(member.linkname)
            elif member.isfile():
                source = tar.extractfile(member)
                assert source is not None
                target.unlink(missing_ok=True)
                with target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                target.chmod(member.mode & 0o755)
