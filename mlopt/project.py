"""`mlopt.toml` beside a model: what flags would say, kept with the model. A flag wins over it.

[model]       name, factory, version
[inputs.NAME] shape, dtype, value, range     a name in a shape is a dimension that callers choose
[preprocess]  preset, resize, crop, …        how a picture becomes the model's input
[samples]     path, calibration, seed, label-offset, classes
[compile]     target, profile, recipes, max-drop, max-latency, max-memory, max-size, max-image-size, server,
              base, compression, threads, out
[serve]       max-batch, cache, max-body, api-keys-file, …   what the server of the image is told
[history]     file
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from mlopt import paths
from mlopt.errors import ConfigInvalid
from mlopt.request import Compression, Server
from mlopt.schema import decode, load
from mlopt.serving import ServeSpec
from mlopt.signature import InputSpec
from mlopt.units import Bytes, Fraction, Seconds

FILE: Final = "mlopt.toml"

Preset = Literal["torchvision", "keras-tf", "unit", "raw"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """`factory` is `pkg.mod:callable`, which builds the module that a file of weights goes into. `version` is what
    clients of the server may ask for."""

    name: str | None = None
    factory: str | None = None
    version: str = "1"

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or "/" in self.name or self.name.startswith(".")):
            raise ValueError(f"name {self.name!r} cannot be the name of a folder, which it becomes")
        if not re.fullmatch(r"[0-9A-Za-z_][0-9A-Za-z_.-]{0,63}", self.version):
            raise ValueError(f"version {self.version!r} is not letters, digits, '.', '_' and '-', 64 at most")


@dataclass(frozen=True, slots=True)
class PreprocessSpec:
    """What was declared; None is left to the preset, or to the shape of the model's input.

    `resize` is the short side and `crop` (height, width), both in pixels; `scale` multiplies raw values of
    0..255, then `mean` is subtracted and `std` divides, per channel; `rotate` turns counter-clockwise.
    """

    preset: Preset | None = None
    resize: int | None = None
    crop: tuple[int, int] | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    channels: Literal["RGB", "BGR", "L"] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dtype: Literal["float32", "uint8", "int8"] | None = None
    rotate: Literal[0, 90, 180, 270] | None = None

    def __post_init__(self) -> None:
        if any(side is not None and side < 1 for side in (self.resize, *(self.crop or ()))):
            raise ValueError("resize and crop are counted in pixels, and one of them is less than 1")
        if self.std is not None and 0 in self.std:
            raise ValueError("std holds 0, and is divided by")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, 3):
                raise ValueError(f"{name} has {len(values)} values; it takes 1, or 3 in the order of the channels")


@dataclass(frozen=True, slots=True)
class SamplesSpec:
    """`path` as it was written: a file or folder beside mlopt.toml, or `pkg.mod:callable`. `classes` by index."""

    path: str | None = None
    calibration: int | None = None
    seed: int | None = None
    labels: bool = True
    label_offset: int = 0
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CompileSpec:
    """Defaults of `mlopt compile`'s flags. Paths are absolute already."""

    targets: tuple[str, ...] = ()
    profile: str | None = None
    recipes: tuple[str, ...] = ()
    max_drop: Fraction | None = None
    max_latency: Seconds | None = None
    max_memory: Bytes | None = None
    max_size: Bytes | None = None
    max_image_size: Bytes | None = None
    base: str | None = None
    compression: Compression | None = None
    server: Server | None = None
    threads: int | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class Project:
    """`root` is where relative paths in it start; `file` is None when there is no mlopt.toml. `history` is where
    results are kept, if they are."""

    root: Path
    file: Path | None = None
    model: ModelSpec = field(default_factory=ModelSpec)
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    preprocess: PreprocessSpec | None = None
    samples: SamplesSpec = field(default_factory=SamplesSpec)
    compile: CompileSpec = field(default_factory=CompileSpec)
    serve: ServeSpec = field(default_factory=ServeSpec)
    history: Path | None = None


def find_project(model: Path, explicit: Path | None = None) -> Project:
    """The project file that was named, or the one beside (for a folder: in) the model, or an empty project.

    Raises `ConfigInvalid` for a file that is named and absent, or that does not follow the schema.
    """
    if explicit is not None:
        return read_project(explicit / FILE if explicit.is_dir() else explicit)
    homes = [model, model.parent] if model.is_dir() else [model.parent]
    for home in homes:
        if (home / FILE).is_file():
            return read_project(home / FILE)
    return Project(root=model.parent)


def read_project(path: Path) -> Project:
    """Raises `ConfigInvalid`."""
    table = load(path)
    _refuse_trust(table, path)
    said = decode(table, ProjectFile, where=str(path))
    root = path.parent
    return Project(
        root=root,
        file=path,
        model=said.model,
        inputs={name: _input(name, spec, path) for name, spec in said.inputs.items()},
        preprocess=said.preprocess,
        samples=_samples(said.samples, path),
        compile=_compile(said.compile, root),
        serve=said.serve,
        history=root / said.history.file if said.history.file else None,
    )


@dataclass(frozen=True, slots=True)
class SamplesTable:
    """`path` is a folder with labels.csv, a folder of class folders, an .npz or `pkg.mod:callable`.

    `calibration` counts samples; `labels` false leaves those that came along out of the judgement; `label-offset` is
    added to every label; `classes` is a list of names, or a text file with one on each line.
    """

    path: str | None = None
    calibration: int | None = None
    seed: int | None = None
    labels: bool = True
    label_offset: int = 0
    classes: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.calibration is not None and self.calibration < 1:
            raise ValueError("calibration is less than 1")


@dataclass(frozen=True, slots=True)
class CompileTable:
    """What the flags of the same names of `mlopt compile` say; a flag wins."""

    target: str | tuple[str, ...] = ()
    profile: str | None = None
    recipes: tuple[str, ...] = ()
    max_drop: Fraction | None = None
    max_latency: Seconds | None = None
    max_memory: Bytes | None = None
    max_size: Bytes | None = None
    max_image_size: Bytes | None = None
    base: str | None = None
    compression: Compression | None = None
    server: Server | None = None
    threads: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError("threads is less than 1")


@dataclass(frozen=True, slots=True)
class HistoryTable:
    """`file` keeps the results of `bench`, `compile` and `gate`; what `--history` says."""

    file: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """mlopt.toml as it is written; `Project` is what it means."""

    model: ModelSpec = field(default_factory=ModelSpec)
    inputs: Mapping[str, InputSpec | str] = field(default_factory=dict)
    preprocess: PreprocessSpec | None = None
    samples: SamplesTable = field(default_factory=SamplesTable)
    compile: CompileTable = field(default_factory=CompileTable)
    serve: ServeSpec = field(default_factory=ServeSpec)
    history: HistoryTable = field(default_factory=HistoryTable)


def _refuse_trust(table: Mapping[str, Any], path: Path) -> None:
    """This file comes along with the model, often from the same stranger, who would be trusting himself."""
    model = table.get("model")
    if "trust" in table or (isinstance(model, dict) and "trust" in model):
        raise ConfigInvalid(
            "Trust cannot be given in mlopt.toml: the file travels with the model, so that whoever made the "
            "model would decide that its code may run here.",
            where=f"{path}: model.trust",
            next="remove the key; if you trust the model, say so each time with --trust",
        )


def _input(name: str, spec: InputSpec | str, path: Path) -> InputSpec:
    if isinstance(spec, InputSpec):
        return spec
    try:
        return InputSpec.parse(spec)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.what, where=f"{path}: inputs.{name}", next=error.next) from error


def _samples(said: SamplesTable, path: Path) -> SamplesSpec:
    classes = said.classes
    return SamplesSpec(
        path=said.path,
        calibration=said.calibration,
        seed=said.seed,
        labels=said.labels,
        label_offset=said.label_offset,
        classes=_names(path.parent / classes, path) if isinstance(classes, str) else classes,
    )


def _names(listing: Path, path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(
            f"The file of class names {str(listing)!r} cannot be read.",
            where=f"{path}: samples.classes",
            next="give a UTF-8 text file with one name on each line, beside mlopt.toml; or a list of names",
        ) from error


def _compile(said: CompileTable, root: Path) -> CompileSpec:
    def beside(name: str) -> str:
        return str(root / name) if paths.is_path(name) else name

    targets = (said.target,) if isinstance(said.target, str) else said.target
    return CompileSpec(
        targets=tuple(map(beside, targets)),
        profile=beside(said.profile) if said.profile is not None else None,
        recipes=tuple(map(beside, said.recipes)),
        max_drop=said.max_drop,
        max_latency=said.max_latency,
        max_memory=said.max_memory,
        max_size=said.max_size,
        max_image_size=said.max_image_size,
        base=paths.with_folder(said.base, root) if said.base is not None else None,
        compression=said.compression,
        server=said.server,
        threads=said.threads,
        out=root / said.out if said.out is not None else None,
    )
