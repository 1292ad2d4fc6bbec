"""The four layers of an image: base, runtime, application, model. Each is packed once and kept by its key."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ImageFailed
from mlopt.image.bytecode import Compiler
from mlopt.image.compression import LEVELS, MEDIA_TYPES, MODEL_LEVELS, decides_bytes
from mlopt.image.disk import unfinished, writing
from mlopt.image.fetch import Inputs
from mlopt.image.inputs import Lock, Native, Package, Recorded, Wanted, host_platform
from mlopt.image.libraries import library_tree, rebound, stripped
from mlopt.image.tree import Entry, Tree, file_bytes, pack, without
from mlopt.image.unpack import unpack_deb, unpack_wheel
from mlopt.request import Compression, Server

PYTHON_PATH: Final = "usr/local/lib/python{python}/dist-packages"
MODEL_PATH: Final = "model"
USER: Final = 65532

_VERSION: Final = 6
_PASSWD: Final = f"root:x:0:0:root:/:/nonexistent\nmlopt:x:{USER}:{USER}:mlopt:/nonexistent:/nonexistent\n"
_GROUP: Final = f"root:x:0:\nmlopt:x:{USER}:\n"


@dataclass(frozen=True, slots=True)
class Layer:
    """A packed layer. `blob` is its compressed file; `made_by` is what the image's history says."""

    name: str
    digest: str
    diff_id: str
    size: int
    unpacked: int
    made_by: str
    blob: Path
    media_type: str = MEDIA_TYPES["gzip"]


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Packed layers below `root`/layers, by a key of everything that decides their bytes."""

    root: Path
    compression: Compression = "gzip"

    def layer(
        self, name: str, *, key: object, made_by: str, levels: Mapping[Compression, int], tree: Callable[[], Tree]
    ) -> Layer:
        """The layer under `key`, packed now from `tree()` if it is not there. Raises `NoSpaceLeft`."""
        mtime, compression = source_date(), self.compression
        level = levels[compression]
        basis = [_VERSION, name, key, made_by, mtime, compression, level, decides_bytes(compression)]
        home = self.root / "layers" / hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()
        if found := _read(home):
            return found
        home.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(self.root) as scratch:
            made = Path(scratch) / "layer"
            made.mkdir()
            with writing(home.parent), (made / "blob").open("wb") as sink:
                packed = pack(tree(), sink, mtime=mtime, level=level, compression=compression)
            layer = {"name": name, "made_by": made_by, "media_type": MEDIA_TYPES[compression], **asdict(packed)}
            (made / "layer.json").write_text(json.dumps(layer), encoding="utf-8")
            _publish(made, home)
        return Layer(**layer, blob=home / "blob")


@dataclass(frozen=True, slots=True)
class Kitchen:
    """What every layer is made with: the declarations, the locks, where inputs and packed layers are kept."""

    wanted: Recorded
    base: Lock
    runtime: Lock
    native: Native
    compilers: Lock
    inputs: Inputs
    cache: LayerCache

    def debs(self, platform: str, server: Server) -> tuple[Package, ...]:
        """The Debian packages of a platform's base layer."""
        beside = self.wanted.debs[len(self.wanted.base.packages) :]
        locked = (one for one in self.base.of(platform) if one.name not in beside)
        return tuple(one for one in locked if server == "python" or one.name in self.native.base.packages)

    def libraries(self, platform: str, runtime: str, server: Server) -> tuple[Package, ...]:
        """The Debian packages of which there are libraries in a platform's runtime layer."""
        wanted = self.wanted.running(runtime).libraries if server == "python" else {}
        return tuple(package for package in self.base.of(platform) if package.name in wanted)

    def wheels(self, platform: str, runtime: str, server: Server, extras: tuple[str, ...] = ()) -> tuple[Package, ...]:
        """The distributions of PyPI in a platform's runtime layer."""
        locked = self.runtime.of(platform)
        wanted = self.wanted.running(runtime, extras).packages if server == "python" else self.native.runtime.packages
        if missing := sorted(set(wanted) - {package.name for package in locked}):
            raise ImageFailed(
                f"There is no locked wheel of {' and '.join(missing)} for {platform}.",
                where="docker/runtime.lock.json",
                next="ship a candidate of another runtime (--ship NAME), or renew the lock: mlopt image lock",
            )
        return tuple(package for package in locked if package.name in wanted)

    def compiler(self) -> Compiler | None:
        """The locked interpreter for this machine; None where it cannot run: then images keep their sources."""
        host = host_platform()
        if host not in self.base.packages or sys.platform != "linux":
            return None
        packages = self.debs(host, "python")
        basis = json.dumps([_VERSION, digests(packages), self.wanted.base.left_out])
        home = self.inputs.root / "interpreters" / hashlib.sha256(basis.encode()).hexdigest()
        return Compiler(lambda: base_tree(self.wanted.base.left_out, self.inputs.debs(packages)), home)


def base_layer(kitchen: Kitchen, *, platform: str) -> Layer:
    """libc, libstdc++ and Python from Debian packages, and the user that the server runs as."""
    packages, wanted, compiler = kitchen.debs(platform, "python"), kitchen.wanted, kitchen.compiler()

    def tree() -> Tree:
        files = base_tree(wanted.base.left_out, kitchen.inputs.debs(packages))
        return compiler.without_sources(files) if compiler else files

    return kitchen.cache.layer(
        "base",
        key=[digests(packages), wanted.base.left_out, compiler is not None],
        made_by=named("Debian packages", packages),
        levels=LEVELS,
        tree=tree,
    )


def runtime_layer(kitchen: Kitchen, *, platform: str, runtime: str, extras: tuple[str, ...] = ()) -> Layer:
    """One runtime, NumPy, Pillow and the web stack, from wheels; and what extras bring."""
    wanted, python, compiler = kitchen.wanted.running(runtime, extras), kitchen.wanted.python, kitchen.compiler()
    packages = kitchen.wheels(platform, runtime, "python", extras)
    libraries = kitchen.libraries(platform, runtime, "python")

    def tree() -> Tree:
        files = _runtime_tree(wanted, python, kitchen.inputs.wheels(packages, python=python))
        for package, deb in zip(libraries, kitchen.inputs.debs(libraries), strict=True):
            files |= library_tree(
                unpack_deb(deb), f"{PYTHON_PATH.format(python=python)}/{wanted.libraries[package.name]}"
            )
        sources = [f"{PYTHON_PATH.format(python=python)}/{path}" for path in wanted.sources]
        return compiler.without_sources(files, but=sources) if compiler else files

    return kitchen.cache.layer(
        "runtime",
        key=[
            digests((*packages, *libraries)),
            [wanted.left_out, wanted.sources, wanted.stripped],
            [dict(wanted.libraries), list(map(asdict, wanted.rebound))],
            python,
            compiler is not None,
        ],
        made_by=named("wheels and Debian packages" if libraries else "wheels", (*packages, *libraries)),
        levels=LEVELS,
        tree=tree,
    )


def application_layer(kitchen: Kitchen) -> Layer:
    """The server: mlopt/serve of this very mlopt, its sources kept."""
    wanted, compiler = kitchen.wanted, kitchen.compiler()
    folder = Path(__file__).parents[1] / "serve"
    below = f"{PYTHON_PATH.format(python=wanted.python)}/mlopt"
    tree: Tree = {f"{below}/__init__.py": Entry("file", 0o644, b'"""The part of mlopt that serves."""\n')}
    for path in sorted(folder.iterdir()):
        if path.suffix in (".py", ".html"):
            tree[f"{below}/serve/{path.name}"] = Entry("file", 0o644, path.read_bytes())
    return kitchen.cache.layer(
        "application",
        key=[_contents(tree), compiler is not None, digests(kitchen.base.packages.get(host_platform(), ()))],
        made_by="mlopt.serve",
        levels=LEVELS,
        tree=lambda: compiler.beside_sources(tree) if compiler else tree,
    )


def model_layer(model: Path, serving: bytes, *, cache: LayerCache) -> Layer:
    """Every file of the model's folder (or the one file) and serving.json, below /model."""
    tree = _model_tree(model, serving)
    return cache.layer("model", key=_contents(tree), made_by="the model", levels=MODEL_LEVELS, tree=lambda: tree)


def model_bytes(model: Path, serving: bytes) -> int:
    """What the files of that layer take on disk."""
    return file_bytes(_model_tree(model, serving))


def model_digest(model: Path) -> str:
    """The digest that the model has as an artifact, whatever the server is told of it: what gates and lineages mean."""
    names = _model_files(model)
    listed = "".join(f"{name}\0{_digest(path)}\n" for name, path in sorted(names.items()))
    return hashlib.sha256(listed.encode()).hexdigest()


def _model_files(model: Path) -> dict[str, Path]:
    paths = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else [model]
    root = model if model.is_dir() else model.parent
    return {path.relative_to(root).as_posix(): path for path in paths if path.name != "serving.json"}


def _model_tree(model: Path, serving: bytes) -> Tree:
    tree: Tree = {f"{MODEL_PATH}/{name}": Entry("file", 0o644, path) for name, path in _model_files(model).items()}
    if not tree:
        raise ImageFailed("There is no model to put into the image.", where=str(model), next="mlopt compile MODEL")
    tree[f"{MODEL_PATH}/serving.json"] = Entry("file", 0o644, serving)
    return tree


def source_date() -> int:
    """The one time that every file in an image has: $SOURCE_DATE_EPOCH, else 0. Raises `ImageFailed`."""
    text = os.environ.get("SOURCE_DATE_EPOCH") or "0"
    if not (text.isascii() and text.isdigit() and int(text) < 2**33):
        raise ImageFailed(f"SOURCE_DATE_EPOCH is {text!r}; it must be whole seconds since 1970.", next="unset it")
    return int(text)


def base_tree(left_out: Iterable[str], debs: Iterable[Path]) -> Tree:
    """The files of Debian packages less `left_out`, merged as Debian has them, and the user that the server runs as."""
    tree: Tree = {}
    for deb in debs:
        tree |= unpack_deb(deb)
    tree = without(tree, left_out)
    folders = {path.split("/")[1] for path in tree if path.startswith("usr/")}
    for name in ("bin", "lib", "lib64", "sbin"):
        if name in folders:
            tree[name] = Entry("link", target=f"usr/{name}")
    tree["etc/passwd"] = Entry("file", 0o644, _PASSWD.encode())
    tree["etc/group"] = Entry("file", 0o644, _GROUP.encode())
    tree["etc/nsswitch.conf"] = Entry("file", 0o644, b"hosts: files dns\n")
    tree["tmp"] = Entry("folder", 0o1777)
    return tree


def _runtime_tree(wanted: Wanted, python: str, wheels: Iterable[Path]) -> Tree:
    tree: Tree = {}
    for wheel in wheels:
        tree |= unpack_wheel(wheel)
    below = PYTHON_PATH.format(python=python)
    return {
        f"{below}/{path}": stripped(path, rebound(path, entry, wanted.rebound), wanted.stripped)
        for path, entry in without(tree, wanted.left_out).items()
    }


def digests(packages: Iterable[Package]) -> list[str]:
    return [package.sha256 for package in packages]


def named(kind: str, packages: Iterable[Package]) -> str:
    return f"{kind}: " + ", ".join(f"{package.name} {package.version}" for package in packages)


def _contents(tree: Mapping[str, Entry]) -> list[tuple[str, str]]:
    return [(path, _digest(entry.content)) for path, entry in sorted(tree.items())]


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(home: Path) -> Layer | None:
    """A layer that is whole: its blob has the length that was noted. A damaged one is thrown away."""
    try:
        facts: dict[str, Any] = json.loads((home / "layer.json").read_bytes())
        layer = Layer(**facts, blob=home / "blob")
        if layer.blob.stat().st_size == layer.size:
            return layer
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        pass
    shutil.rmtree(home, ignore_errors=True)
    return None


def _publish(made: Path, home: Path) -> None:
    try:
        os.replace(made, home)
    except OSError as error:
        # Another process packed the same layer first; its bytes are the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
