"""The files of an image on disk, and how to start its server from them without any container engine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed
from mlopt.image.compression import decompressed
from mlopt.image.disk import unfinished, writing
from mlopt.image.layers import Layer
from mlopt.image.layout import blob_path, manifests_of, read_blob
from mlopt.image.load import manifest_of
from mlopt.image.tree import inside

# What an upper layer's name begins with where it takes something of a lower one away.
WHITEOUT: Final = ".wh."


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

    def checked(layer: dict[str, Any]) -> Path:
        read_blob(layout, layer)
        return blob_path(layout, layer)

    return _unpacked(root / "rootfs" / digest, (checked(layer) for layer in manifest["layers"]))


def _unpacked(home: Path, blobs: Iterable[Path]) -> Path:
    """The blobs unpacked one over the other at `home`, if nothing is there yet."""
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with writing(home.parent), unfinished(home.parents[1]) as scratch:
        made = Path(scratch) / "root"
        made.mkdir()
        for blob in blobs:
            _extract(blob, made)
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
    entry = [str(rootfs) + word if word.startswith("/") else word for word in config["Entrypoint"]]
    return _through_loader(rootfs, [*entry, *arguments], dict(line.split("=", 1) for line in config["Env"]), emulator)


def unpack_layers(layers: Sequence[Layer], *, root: Path) -> Path:
    """The unpacked files of packed layers, lowest first, below `root`/rootfs; unpacked once."""
    digest = hashlib.sha256("".join(layer.digest for layer in layers).encode()).hexdigest()
    return _unpacked(root / "rootfs" / digest, (layer.blob for layer in layers))


def python_command(rootfs: Path, *, environment: Sequence[str], emulator: Sequence[str] = ()) -> Command:
    """The Python of an image's files, started as `server_command` starts its server; a program's path may follow."""
    python = str(next(iter(sorted((rootfs / "usr" / "bin").glob("python3.*")))))
    return _through_loader(rootfs, [python], dict(line.split("=", 1) for line in environment), emulator)


def _through_loader(
    rootfs: Path, words: Sequence[str], environment: dict[str, str], emulator: Sequence[str]
) -> Command:
    loaders = sorted((rootfs / "usr" / "lib").glob("*-linux-gnu/ld-linux-*.so.*"))
    if not loaders:
        raise ImageFailed(
            "The image has no dynamic loader.", where=str(rootfs), next="assemble it again: mlopt compile"
        )
    loader = loaders[0]
    home = Path(words[0]).parents[1]
    environment["PATH"] = str(home / "bin")
    environment["PYTHONHOME"] = str(home)
    if "PYTHONPATH" in environment:
        environment["PYTHONPATH"] = ":".join(f"{rootfs}{path}" for path in environment["PYTHONPATH"].split(":"))
    libraries = f"{loader.parent}:{home / 'lib'}"
    start = [*emulator, str(loader), "--inhibit-cache", "--library-path", libraries, *words]
    return Command(tuple(start), environment)


def _extract(blob: Path, root: Path) -> None:
    """Unpack one layer. Nothing is written outside `root`, not even through a link."""
    with decompressed(blob) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            target = root / inside(member.name)
            if not target.parent.resolve().is_relative_to(root.resolve()):
                raise ImageFailed(f"The layer writes outside its tree: {member.name}", where=str(blob))
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.name.startswith(WHITEOUT):
                _remove(target.with_name(target.name.removeprefix(WHITEOUT)))
            elif member.isdir():
                if not target.is_dir():
                    _remove(target)
                    target.mkdir()
            elif member.issym():
                _remove(target)
                target.symlink_to(member.linkname)
            elif member.islnk():
                _remove(target)
                os.link(root / inside(member.linkname), target, follow_symlinks=False)
            elif member.isfile():
                source = tar.extractfile(member)
                assert source is not None
                _remove(target)
                with target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                target.chmod(member.mode & 0o755)


def _remove(path: Path) -> None:
    """Of a lower layer, what an upper one has in its place or takes away."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
