"""A folder for `docker buildx bake`: the layers of an image, a Dockerfile that lays them down, a bake file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlopt import paths
from mlopt.bundle import publishing
from mlopt.errors import ImageFailed
from mlopt.image.compression import MEDIA_TYPES, decompressed
from mlopt.image.layers import source_date
from mlopt.image.layout import blob_path, checked_blob, index_of, manifests_of, read_blob
from mlopt.image.load import local_reference, manifest_of

_BASE = "org.opencontainers.image.base"
_BAKE = "docker-bake.hcl"


def write_context(layout: Path, into: Path) -> Path:
    """Write the folder in the place of one that was written before. The same image gives the same bytes.

    Raises `ImageFailed` for a damaged layout, and for one on a base that no registry has; `StoreUnusable` where a
    folder with other files is there, `NoSpaceLeft`.
    """
    index, platforms = json.loads(read_blob(layout, index_of(layout))), tuple(manifests_of(layout))
    said: dict[str, str] = index.get("annotations") or {}
    if f"{_BASE}.digest" in said and f"{_BASE}.name" not in said:
        raise ImageFailed(
            "This image stands on a layout of one machine, and a Dockerfile begins with what a registry has.",
            where=str(layout),
            next="push the base to a registry, and compile with --base HOST/NAME:TAG",
        )
    config = json.loads(read_blob(layout, manifest_of(layout, platforms[0])["config"]))["config"]
    with publishing(into, mark=_BAKE, said="FOLDER") as made:
        names = [_layers(layout, one, made / one, on_base=f"{_BASE}.digest" in said) for one in platforms]
        if any(one != names[0] for one in names):
            raise ImageFailed("The platforms of this image have layers of different kinds.", where=str(layout))
        facts = {
            "title": said["org.opencontainers.image.title"],
            "tag": local_reference(layout),
            "base": said.get(f"{_BASE}.name", ""),
            "platforms": platforms,
            "layers": names[0],
            "config": config,
            "settings": [line.partition("=")[::2] for line in config["Env"]],
            "labels": sorted(config["Labels"].items()),
            "epoch": source_date(),
        }
        environment = _environment()
        for name in ("Dockerfile", _BAKE):
            (made / name).write_text(environment.get_template(f"{name}.j2").render(facts), encoding="utf-8")
    return into


def _layers(layout: Path, platform: str, into: Path, *, on_base: bool) -> tuple[str, ...]:
    """Copy a platform's layers, less those of a base, as archives that every builder unpacks; their names in order."""
    into.mkdir(parents=True)
    names = []
    for number, layer in enumerate(manifest_of(layout, platform)["layers"]):
        kind = layer["annotations"]["io.mlopt.layer"]
        if kind.startswith("base") and on_base:
            continue
        checked_blob(layout, layer)
        plain = layer["mediaType"] != MEDIA_TYPES["gzip"]
        names.append(f"{number}-{kind}.tar" + ("" if plain else ".gz"))
        if not plain:
            shutil.copyfile(blob_path(layout, layer), into / names[-1])
            continue
        with decompressed(blob_path(layout, layer)) as source, (into / names[-1]).open("wb") as sink:
            while piece := source.read(1 << 20):
                sink.write(piece)
    return tuple(names)


def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(paths.folder("docker") / "build"),
        autoescape=False,  # noqa: S701 - no HTML; what is a value goes through `quoted`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"line": _line, "quoted": _quoted, "words": _words}
    return environment


def _line(text: str) -> str:
    """Nothing of a name leaves its line, where it would be an instruction."""
    return re.sub(r"[^\x20-\x7e]+", " ", text)


def _quoted(text: str) -> str:
    """Between double quotes, with nothing in it that a builder would put something else for."""
    return '"' + re.sub(r'(["\\$])', r"\\\1", " ".join(text.split())) + '"'


def _words(words: Iterable[str] | Sequence[str]) -> str:
    return json.dumps(list(words))
