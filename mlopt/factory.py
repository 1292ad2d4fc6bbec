"""Where a `--factory pkg.mod:callable` lies and what its code hashes to, found without running any of it."""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from mlopt.artifact import Digest
from mlopt.errors import NeedsFactory


@dataclass(frozen=True, slots=True)
class Factory:
    """A callable that builds the model that weights belong to.

    It returns an `nn.Module`, or the module and its example inputs (a tuple, or a dict by argument name); or the
    module has an attribute `example_inputs`. `digest` covers its name and the source of its file and of every
    file of the same project which that imports, so that an edit is never answered from the store.
    """

    name: str
    root: Path
    files: tuple[Path, ...]

    @property
    def digest(self) -> Digest:
        sha = hashlib.sha256(self.name.encode())
        for file in self.files:
            sha.update(hashlib.sha256(file.read_bytes()).digest())
        return Digest(sha.hexdigest())


def find_factory(name: str, *, root: Path | None = None) -> Factory:
    """Locate `pkg.mod:callable` below `root` (the current folder) or among installed packages.

    Raises `NeedsFactory` when the name is malformed, or there is no such module.
    """
    root = root or Path.cwd()
    module, colon, attribute = name.partition(":")
    if not (colon and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise NeedsFactory(f"{name!r} does not name a factory.", next="write it as pkg.mod:callable")
    file = _source_of(module, root)
    if file is None:
        raise NeedsFactory(
            f"The factory's module {module!r} cannot be found.",
            where=f"looked below {root} and among installed packages",
            next="run mlopt from the folder that holds it, or install its package",
        )
    return Factory(name, root, tuple(sorted(_project_files(file, module, root))))


def _source_of(module: str, root: Path) -> Path | None:
    """The file of a module, by the import system's own search, importing nothing, not even its packages."""
    search: list[str] | None = [str(root), *sys.path]
    file = None
    for depth in range(module.count(".") + 1):
        name = ".".join(module.split(".")[: depth + 1])
        spec = PathFinder.find_spec(name, search)
        if spec is None:
            return None
        file = spec.origin
        search = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else []
    return Path(file) if file and Path(file).suffix == ".py" else None


def _project_files(file: Path, module: str, root: Path) -> set[Path]:
    found: set[Path] = set()
    pending = [(file, module)]
    while pending:
        file, module = pending.pop()
        if file in found:
            continue
        found.add(file)
        for name in _imports(file, module):
            imported = _source_of(name, root)
            if imported and imported.is_relative_to(root) and "site-packages" not in imported.parts:
                pending.append((imported, name))
    return found


def _imports(file: Path, module: str) -> Iterator[str]:
    """Absolute names of what a file imports; `from a import b` gives both `a` and `a.b`."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise NeedsFactory(
            f"The factory's code has a syntax error: {error.msg}.", where=f"{file}:{error.lineno}"
        ) from error
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
