"""The models that a server holds: found in folders, by name and version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from mlopt.serve.model import NotServable, Serving, read_serving
from mlopt.serve.served import Served
from mlopt.serve.tensors import Rejected

_SPEC: Final = "serving.json"
_DEPTH: Final = 3  # NAME/VERSION/model


def find_models(folders: Sequence[Path]) -> list[tuple[Path, Serving]]:
    """Every model in these folders, in that order: a folder is a model's, or holds models up to three folders deep.

    A folder above the model whose name is a number is its version, as TensorFlow Serving and Triton have it.
    Raises `NotServable`, also where two are of one name and version.
    """
    found: list[tuple[Path, Serving]] = []
    places: dict[tuple[str, str], Path] = {}
    for root in folders:
        for place, serving in _models(root):
            key = serving.name, serving.version
            if key in places:
                raise NotServable(
                    f"{places[key]} and {place} are both {serving.name}, version {serving.version}: give one of them "
                    f"another version in {_SPEC}, or put it into a folder whose name is the version's number"
                )
            places[key] = place
            found.append((place, serving))
    return found


class Repository:
    """What is served, by name and version; of each name the highest version is the one that is meant by none."""

    def __init__(self, served: Iterable[Served]) -> None:
        self.all = tuple(served)
        self._by_name: dict[str, dict[str, Served]] = {}
        for one in self.all:
            self._by_name.setdefault(one.serving.name, {})[one.serving.version] = one
        self._by_name = {
            name: dict(sorted(versions.items(), key=lambda item: _order(item[0]), reverse=True))
            for name, versions in self._by_name.items()
        }

    @property
    def ready(self) -> bool:
        """Whether all of them are."""
        return all(one.ready for one in self.all)

    def check_room(self) -> None:
        """Raises `Rejected` where none of them has room for another request: before anybody knows for which it is."""
        if not any(one.has_room for one in self.all):
            self.all[0].line.check_room()

    def get(self, name: str | None = None, version: str | None = None) -> Served:
        """Raises `Rejected` (404) where there is no such model, or no such version of it. No name: the first."""
        versions = self._by_name.get(self.all[0].serving.name if name is None else name)
        if versions is None:
            raise Rejected(f"there is no such model; this server has {', '.join(self._by_name)}", status=404)
        if not version:
            return next(iter(versions.values()))
        if version not in versions:
            has = f"{', '.join(versions)} of {next(iter(versions.values())).serving.name}"
            raise Rejected(f"there is no such version; this server has {has}", status=404)
        return versions[version]

    def versions(self, name: str) -> tuple[Served, ...]:
        """All of a name, the highest first. Raises `Rejected` (404)."""
        self.get(name)
        return tuple(self._by_name[name].values())

    def metadata(self, served: Served) -> dict[str, Any]:
        """The body of GET /v2/models/{m}, with every version that there is."""
        versions = [one.serving.version for one in self.versions(served.serving.name)]
        return {**served.metadata(), "versions": versions[::-1]}

    def index(self, *, ready: bool) -> list[dict[str, str]]:
        """The body of POST /v2/repository/index: all of them, or those that are ready."""
        return [
            {
                "name": one.serving.name,
                "version": one.serving.version,
                "state": "READY" if one.ready else "LOADING",
                "reason": "",
            }
            for name in sorted(self._by_name)
            for one in reversed(self.versions(name))
            if one.ready or not ready
        ]


def _order(version: str) -> tuple[bool, int, str]:
    number = version.isascii() and version.isdigit()
    return number, int(version) if number else 0, version


def _models(root: Path) -> Iterator[tuple[Path, Serving]]:
    if (root / _SPEC).exists() or not root.is_dir():
        yield root, read_serving(root)
        return
    places = list(_below(root, _DEPTH))
    if not places:
        raise NotServable(f"{root} holds no {_SPEC}, and no folder in it does")
    for place in places:
        serving = read_serving(place)
        numbers = [part for part in place.relative_to(root).parts if part.isascii() and part.isdigit()]
        yield place, replace(serving, version=numbers[-1]) if numbers else serving


def _below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise NotServable(f"{folder}: {error.strerror}") from error
    for path in inner:
        if (path / _SPEC).exists():
            yield path
        elif depth > 1:
            yield from _below(path, depth - 1)
