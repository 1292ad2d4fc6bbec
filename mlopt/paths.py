"""Where declarations lie: in a wheel, in a checkout, in the user's own folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal

from mlopt.errors import UnknownName

Kind = Literal["targets", "profiles", "optimize"]
Folder = Literal["targets", "profiles", "optimize", "docker", "reports"]

# Templates only: what reports/ holds besides them are published results.
_IN_CHECKOUT: Final[dict[str, str]] = {"reports": "reports/templates"}


def folder(name: Folder) -> Path:
    """A folder of declarations that ships with mlopt. Raises `UnknownName` for an incomplete installation."""
    package = Path(__file__).resolve().parent
    installed = package / "_data" / name
    if installed.is_dir():
        return installed
    beside = package.parent / _IN_CHECKOUT.get(name, name)
    # site-packages may well hold somebody else's folder of that name: only a checkout has this file.
    if (package.parent / "pyproject.toml").is_file() and beside.is_dir():
        return beside
    raise UnknownName(
        f"The folder {name!r} that ships with mlopt is not there.",
        where=str(package),
        next="install mlopt anew: pip install --force-reinstall mlopt",
    )


def own_folder(kind: Kind) -> Path:
    """Where a person keeps declarations for all projects: `$XDG_CONFIG_HOME/mlopt/<kind>`. It may not exist."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "mlopt" / kind


def declarations(kind: Kind) -> dict[str, Path]:
    """Every declared name of a kind with its file, sorted; a file of the person's own hides a built-in one."""
    found = {path.stem: path for path in sorted(folder(kind).glob("*.toml"))}
    found |= {path.stem: path for path in sorted(own_folder(kind).glob("*.toml"))}
    return dict(sorted(found.items()))


def is_path(name: str) -> bool:
    """Whether a name on the command line means a file: it ends in `.toml` or holds a slash."""
    return name.endswith(".toml") or "/" in name


def given_file(name: str, noun: str) -> Path:
    """The file that a person named. Raises `UnknownName` when there is none."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise UnknownName(
            f"There is no {noun} file at that path.",
            where=str(path),
            next=f"give the path of a .toml file, or a name that `mlopt {noun}s list` shows",
        )
    return path


def with_folder(said: str, root: Path) -> str:
    """FOLDER or FOLDER:TAG with its whole path, if there is such a folder below `root`; anything else as it is."""
    there = any((root / folder).is_dir() for folder in (said, said.partition(":")[0]) if folder)
    return str((root / said).absolute()) if there else said
