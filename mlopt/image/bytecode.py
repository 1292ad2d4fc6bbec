"""Compile an image's Python ahead of time, with the image's own interpreter: it starts faster and is smaller.

Bytecode is the same for every architecture, so this machine's build of the locked interpreter compiles for all.
Invalidation is by unchecked hash: no times in the files, and nothing looks for sources that are not there.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlopt.errors import ImageFailed
from mlopt.image.tree import Entry, Tree

_PROGRAM: Final = """
import os, py_compile, sys
root, = sys.argv[1:]
paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
for path in sorted(os.path.relpath(path, root) for path in paths):
    py_compile.compile(
        os.path.join(root, path), os.path.join(root, path + "c"), "/" + path, doraise=True, quiet=2,
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )
"""
_TAG: Final = "cpython-311"


@dataclass(frozen=True, slots=True)
class Compiler:
    """The image's interpreter for this machine: unpacked at `home` from `base()`, its base layer, when first needed."""

    base: Callable[[], Tree]
    home: Path

    def without_sources(self, tree: Mapping[str, Entry], *, but: Iterable[str] = ()) -> Tree:
        """The tree with bytecode in the place of every .py, `but` of these paths, where it lies beside the source. A
        file that does not compile raises `ImageFailed`."""
        kept = {path: tree[path] for path in but if path in tree}
        compiled = self._compiled({path: entry for path, entry in tree.items() if path not in kept})
        return {
            **{path: entry for path, entry in tree.items() if path not in compiled},
            **{f"{path}c": Entry("file", 0o644, data) for path, data in compiled.items()},
            **self.beside_sources(kept),
        }

    def beside_sources(self, tree: Mapping[str, Entry]) -> Tree:
        """The tree with bytecode in __pycache__, so that tracebacks still show lines."""
        made = dict(tree)
        for path, data in self._compiled(tree).items():
            folder, _, name = path.rpartition("/")
            made[f"{folder}/__pycache__/{name.removesuffix('.py')}.{_TAG}.pyc"] = Entry("file", 0o644, data)
        return made

    def _compiled(self, tree: Mapping[str, Entry]) -> dict[str, bytes]:
        """Bytecode by path of its source. Links are left alone."""
        sources = [path for path, entry in sorted(tree.items()) if path.endswith(".py") and entry.kind == "file"]
        self._unpack()
        with tempfile.TemporaryDirectory(prefix=".compile-", dir=self.home.parent) as folder:
            work = Path(folder)
            write_tree({path: tree[path] for path in sources}, work)
            _run(self.home, work)
            return {path: (work / f"{path}c").read_bytes() for path in sources}

    def _unpack(self) -> None:
        if self.home.is_dir():
            return
        self.home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpack-", dir=self.home.parent) as folder:
            write_tree(self.base(), Path(folder) / "rootfs")
            try:
                os.replace(Path(folder) / "rootfs", self.home)
            except OSError:
                # Another thread or process was first; its files are the same.
                if not self.home.is_dir():
                    raise


def write_tree(tree: Mapping[str, Entry], folder: Path) -> None:
    """Write a tree of ours to disk."""
    for path, entry in sorted(tree.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "link":
            target.symlink_to(entry.target)
        elif entry.kind == "folder":
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes())
            target.chmod(entry.mode)


def _run(rootfs: Path, work: Path) -> None:
    loader = next((rootfs / "usr" / "lib").glob("*-linux-gnu/ld-linux-*.so.*"))
    command = [str(loader), "--inhibit-cache", "--library-path", str(loader.parent)]
    command += [str(rootfs / "usr/bin/python3.11"), "-S", "-X", "no_debug_ranges", "-c", _PROGRAM, str(work)]
    # A fixed hash seed: the order of constants that come from sets must not change from run to run.
    environment = {"PYTHONHOME": str(rootfs / "usr"), "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, preexec_fn=_plain_umask
        )
    except OSError as error:
        raise _failed(str(error)) from error
    if done.returncode:
        raise _failed(" ".join(done.stderr.splitlines()[-2:]) or f"status {done.returncode}")


def _plain_umask() -> None:
    os.umask(0o022)


def _failed(reason: str) -> ImageFailed:
    return ImageFailed(
        f"The image's interpreter could not compile its library: {reason[:500]}",
        next="set MLOPT_CACHE_DIR to a folder from which programs may be started",
    )
