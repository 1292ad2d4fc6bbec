"""The native image: a server in C instead of Python, built here for every platform by a locked compiler."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mlopt.errors import ImageFailed
from mlopt.image.disk import unfinished, writing
from mlopt.image.inputs import PLATFORMS, WHEEL, docker_folder, host_platform
from mlopt.image.layers import Kitchen, Layer, base_tree, digests, named
from mlopt.image.tree import Entry, Tree, inside
from mlopt.image.unpack import unpack_wheel
from mlopt.request import Compression

RUNTIME: Final = "onnxruntime"
SERVER: Final = "/usr/bin/mlopt-serve"

# Raise it whenever the same sources would give another program.
_VERSION: Final = 1
# No processor's own instructions and no times: the same bytes from any machine. Nothing newer than the C library that
# the wheel itself asks for.
_TARGET: Final = "{machine}-linux-gnu.2.28"
_OPTIONS: Final = (
    *("-std=gnu11", "-Os", "-g0", "-fPIE", "-pie", "-s", "-DNDEBUG", "-Wall", "-Wextra", "-Werror"),
    *("-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-fno-sanitize=all"),
    *("-fno-unwind-tables", "-fno-asynchronous-unwind-tables"),
    *("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections", "-Wl,-z,relro", "-Wl,-z,now"),
    # Not the compiler's own memcpy, which goes byte by byte: the C library has a better one.
    "-rtlib=none",
    *("-DYYJSON_DISABLE_UTILS=1", "-DYYJSON_DISABLE_INCR_READER=1", "-DYYJSON_DISABLE_NON_STANDARD=1"),
)
_LIBRARIES: Final = ("-lpthread", "-ldl", "-lm")
# Of the compiler's wheel: its program, and what it needs for C on Linux; 180 of 410 MB are for other systems.
_COMPILER: Final = (
    "ziglang/zig",
    "ziglang/lib/include/",
    "ziglang/lib/compiler_rt",
    "ziglang/lib/std/",
    "ziglang/lib/libc/glibc/",
    "ziglang/lib/libc/include/generic-glibc/",
    "ziglang/lib/libc/include/any-linux-any/",
    "ziglang/lib/libc/include/x86",
    "ziglang/lib/libc/include/aarch64",
    "ziglang/lib/libunwind/",
)
# Half a part in a hundred less than the level of other images, for seconds more, once.
_LEVELS: Final[Mapping[Compression, int]] = {"gzip": 9, "zstd": 19}
_NOTICES: Final = ("LICENSE", "ThirdPartyNotices.txt")
_BUILDING: Final = threading.Lock()


def native_layers(kitchen: Kitchen, *, platform: str, runtime: str) -> tuple[Layer, ...]:
    """What the model stands on in the image of a platform, lowest first: libc, ONNX Runtime's library, the server.

    Raises `ImageFailed` where the model needs another runtime, or the server cannot be built here.
    """
    if runtime != RUNTIME:
        raise ImageFailed(
            f"The native server runs models in {RUNTIME}, and this one is for {runtime}.", next="--server python"
        )
    return _base(kitchen, platform), _runtime(kitchen, platform), _application(kitchen, platform)


def sources() -> dict[str, bytes]:
    """What the server is built from, by name: ours, and what others wrote, in vendor/."""
    folder = docker_folder() / "native"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".c", ".h")
    }


def build_server(kitchen: Kitchen, platform: str) -> Path:
    """The program for a platform: built once for all of them, kept by the digest of everything that decides it."""
    names = sources()
    packages = kitchen.compilers.of(_builder())
    content = {name: hashlib.sha256(data).hexdigest() for name, data in names.items()}
    basis = json.dumps([_VERSION, digests(packages), _TARGET, _OPTIONS, _LIBRARIES, PLATFORMS, content])
    home = kitchen.inputs.root / "servers" / hashlib.sha256(basis.encode()).hexdigest()
    with _BUILDING:
        if not home.is_dir():
            (wheel,) = kitchen.inputs.wheels(packages, python=kitchen.wanted.python)
            _build(names, wheel, home)
    return home / platform.replace("/", "-")


def _base(kitchen: Kitchen, platform: str) -> Layer:
    packages = kitchen.debs(platform, "native")
    left_out = (*kitchen.wanted.base.left_out, *kitchen.native.base.left_out)
    return kitchen.cache.layer(
        "base",
        key=[digests(packages), left_out, "native"],
        made_by=named("Debian packages", packages),
        levels=_LEVELS,
        tree=lambda: _documents_packed(base_tree(left_out, kitchen.inputs.debs(packages))),
    )


def _runtime(kitchen: Kitchen, platform: str) -> Layer:
    packages = kitchen.wheels(platform, RUNTIME, "native")
    below = f"usr/lib/{WHEEL[platform]}-linux-gnu"

    def tree() -> Tree:
        (wheel,) = kitchen.inputs.wheels(packages, python=kitchen.wanted.python)
        found = unpack_wheel(wheel)
        made = {f"usr/share/doc/{RUNTIME}/{name}": found[f"{RUNTIME}/{name}"] for name in _NOTICES}
        library = next(path for path in found if path.startswith(f"{RUNTIME}/capi/lib{RUNTIME}.so."))
        return _documents_packed(made) | {f"{below}/lib{RUNTIME}.so.1": Entry("file", 0o644, found[library].content)}

    return kitchen.cache.layer(
        "runtime",
        key=[digests(packages), "native"],
        made_by=f"the library in {named('wheels', packages)}",
        levels=_LEVELS,
        tree=tree,
    )


def _application(kitchen: Kitchen, platform: str) -> Layer:
    program = build_server(kitchen, platform).read_bytes()
    tree = {SERVER.lstrip("/"): Entry("file", 0o755, program)}
    for path in sorted((docker_folder() / "native" / "vendor").glob("LICENSE.*")):
        tree[f"usr/share/doc/mlopt-serve/{path.name}"] = Entry("file", 0o644, path.read_bytes())
    return kitchen.cache.layer(
        "application",
        key=[hashlib.sha256(program).hexdigest(), "native"],
        made_by=named("mlopt-serve, built with", kitchen.compilers.of(_builder())),
        levels=_LEVELS,
        tree=lambda: _documents_packed(tree),
    )


def _documents_packed(tree: Mapping[str, Entry]) -> Tree:
    """Copyrights and notices, kept and compressed: unpacked they would be a third of a megabyte of 35."""
    packed: Tree = {}
    for path, entry in tree.items():
        if entry.kind != "file" or not path.startswith("usr/share/doc/"):
            packed[path] = entry
            continue
        content = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
        packed[f"{path}.xz"] = Entry("file", 0o644, lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    return packed


def _builder() -> str:
    """This machine's platform. Raises `ImageFailed` where the compiler is not locked for it."""
    if sys.platform != "linux":
        raise ImageFailed(f"The native server is built on Linux, and this is {sys.platform}.", next="--server python")
    return host_platform()


def _build(names: Mapping[str, bytes], wheel: Path, home: Path) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    with writing(home.parent), unfinished(home.parents[1]) as folder:
        scratch = Path(folder)
        _unpack_compiler(wheel, scratch)
        for name, data in names.items():
            (scratch / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / "source" / name).write_bytes(data)
        (scratch / "made").mkdir()
        for platform in PLATFORMS:
            target = _TARGET.format(machine=WHEEL[platform])
            made = scratch / "made" / platform.replace("/", "-")
            _compile(scratch, ["-target", target, *_OPTIONS, "-o", str(made), *_units(names), *_LIBRARIES])
        try:
            os.replace(scratch / "made", home)
        except OSError:
            # Another process was first; its bytes are the same.
            if not home.is_dir():
                raise


def _units(names: Mapping[str, bytes]) -> list[str]:
    return [name for name in sorted(names) if name.endswith(".c")]


def _unpack_compiler(wheel: Path, scratch: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        for info in packed.infolist():
            if not info.is_dir() and info.filename.startswith(_COMPILER):
                target = scratch / inside(info.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(packed.read(info))
    (scratch / "ziglang" / "zig").chmod(0o755)


def _compile(scratch: Path, words: list[str]) -> None:
    caches = dict.fromkeys(("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR"), str(scratch / "cache"))
    environment = {**caches, "HOME": str(scratch), "PATH": "/usr/bin"}
    try:
        done = subprocess.run(
            [str(scratch / "ziglang" / "zig"), "cc", *words],
            cwd=scratch / "source",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        reason = "" if done.returncode == 0 else done.stderr.strip() or f"status {done.returncode}"
    except OSError as error:
        reason = str(error)
    if reason:
        raise ImageFailed(
            f"The native server could not be built: {reason[:800]}",
            next="set MLOPT_CACHE_DIR to a folder from which programs may be started; or: --server python",
        )
