"""`--samples WHERE` to calibration and evaluation samples: find the kind, bind it to the model, split once.

Four kinds: a folder with `labels.csv`, a folder of class folders (or of plain images, without labels), an
`.npz`, a `pkg.mod:callable` that gives samples.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlopt.errors import LabelsMismatch, SamplesInvalid
from mlopt.parallel import mapped
from mlopt.samples.arrays import from_callable, from_npz
from mlopt.samples.prepared import PreparedOnce
from mlopt.samples.preprocess import Preparation, settle
from mlopt.samples.samples import Samples, digest_samples
from mlopt.samples.sources import ImageFiles, MappedArrays, Source

if TYPE_CHECKING:
    from mlopt.project import PreprocessSpec
    from mlopt.signature import InputSpec, Signature, Tensor

_IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_CALIBRATION: Final = 128


@dataclass(frozen=True, slots=True)
class Asked:
    """What the person said about samples, in flags or in mlopt.toml."""

    where: str
    preprocess: PreprocessSpec | None = None
    constants: Mapping[str, InputSpec] = field(default_factory=dict)
    calibration: int | None = None
    seed: int = 0
    labels: bool = True
    label_offset: int = 0
    classes: tuple[str, ...] = ()
    root: Path = Path()


@dataclass(frozen=True, slots=True)
class Split:
    """`calibration` and `evaluation` share no sample, not even two files with the same bytes."""

    calibration: Samples
    evaluation: Samples
    source: Source
    preprocess: Mapping[str, object] | None
    assumed_preprocess: bool


def open_samples(asked: Asked, signature: Signature) -> Split:
    """Open, bind to the model's inputs and split by `asked.seed`.

    The split orders samples by sha256(seed, content), so it depends neither on file names nor on their order.
    Raises `SamplesInvalid` (nothing there, nothing fits, an input not exercised), `LabelsMismatch`.
    """
    assumed = asked.preprocess is None
    opened, used = _source(asked, signature)
    ready = isinstance(opened, MappedArrays) and not opened.preprocess  # lies on disk as the model takes it
    source = PreparedOnce(opened if asked.labels else dataclasses.replace(opened, labels=None), 0 if ready else None)
    if len(source) < 2:
        raise SamplesInvalid(
            f"Only {len(source)} sample was found; calibration and evaluation need one each at least.",
            where=source.where,
            next="give --samples a folder with labels.csv, class folders, an .npz, or a pkg.mod:callable",
        )
    _check_covered(source, asked.constants, signature)
    _check_labels(source, signature)
    chosen = _split(source, asked.seed, asked.calibration)
    calibration, evaluation = (
        Samples(source, indices, signature, asked.constants, digest_samples(source, indices, asked.constants))
        for indices in chosen
    )
    return Split(calibration, evaluation, source, used.as_json() if used else None, assumed and used is not None)


def _source(asked: Asked, signature: Signature) -> tuple[ImageFiles | MappedArrays, Preparation | None]:
    where = Path(asked.where)
    free = [tensor for tensor in signature.inputs if tensor.name not in asked.constants]
    if not where.exists() and ":" in asked.where:
        arrays = from_callable(asked.where, free, asked)
        return arrays, next(iter(arrays.preprocess.values()), None)
    if not where.exists():
        raise SamplesInvalid(
            "There are no samples at that path.",
            where=str(where),
            next="give --samples a folder with labels.csv, class folders, an .npz, or a pkg.mod:callable",
        )
    if where.is_file() and where.suffix == ".npz":
        arrays = from_npz(where, free, asked)
        return arrays, next(iter(arrays.preprocess.values()), None)
    if where.is_dir():
        images = _images(where, free, asked)
        return images, images.preprocess
    raise SamplesInvalid(
        "Samples are a folder, an .npz or a pkg.mod:callable; this is neither.",
        where=str(where),
        next="put the files into class folders, or write an .npz with arrays x and y",
    )


def _images(folder: Path, free: list[Tensor], asked: Asked) -> ImageFiles:
    image_inputs = [tensor for tensor in free if len(tensor.shape) == 4]
    if len(image_inputs) != 1:
        raise SamplesInvalid(
            f"A folder of images fits a model with one image input; this one has {len(image_inputs)} "
            f"inputs of four dimensions: {', '.join(tensor.name for tensor in free) or 'none'}.",
            where=str(folder),
            next="give an .npz with one array per input, or a pkg.mod:callable",
        )
    tensor = image_inputs[0]
    prepare = settle(asked.preprocess, tensor)
    if (folder / "labels.csv").is_file():
        files, labels, classes = _from_csv(folder)
    else:
        files, labels, classes = _from_folders(folder)
    if labels is not None and asked.label_offset:
        labels = tuple(label + asked.label_offset for label in labels)
        classes = {index + asked.label_offset: name for index, name in classes.items()}
    if asked.classes:
        classes = dict(enumerate(asked.classes))
    return ImageFiles(str(folder), files, labels, classes, tensor.name, prepare)


_Listing = tuple[tuple[Path, ...], tuple[int, ...] | None, dict[int, str]]


def _from_csv(folder: Path) -> _Listing:
    """Columns: `file` (relative path) and `class_index` or `label`; `name` gives the class a name."""
    table = folder / "labels.csv"
    files: list[Path] = []
    labels: list[int] = []
    classes: dict[int, str] = {}
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            for number, row in enumerate(csv.DictReader(stream), start=2):
                name = row.get("file") or row.get("filename") or row.get("path")
                label = row.get("class_index") or row.get("label")
                if name is None or label is None or not label.strip().isdigit():
                    raise LabelsMismatch(
                        "Each line of labels.csv needs a file and a whole number, in columns "
                        "`file` and `class_index` (or `label`).",
                        where=f"{table}, line {number}",
                        next="correct that line",
                    )
                path = folder / name
                if not path.is_file():
                    raise LabelsMismatch(
                        f"labels.csv names {name!r}, and there is no such file in the folder.",
                        where=f"{table}, line {number}",
                        next="remove the line or restore the file",
                    )
                files.append(path)
                labels.append(int(label))
                if row.get("name"):
                    classes[int(label)] = str(row["name"])
    except UnicodeDecodeError as error:
        raise LabelsMismatch("labels.csv is not UTF-8 text.", where=str(table), next="save it as UTF-8") from error
    return tuple(files), tuple(labels), classes


def _from_folders(folder: Path) -> _Listing:
    """One folder per class, numbered in sorted order (by their value when all names are numbers)."""
    named = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _images_in(entry))
    if not named:
        return tuple(_images_in(folder)), None, {}
    numbers = all(entry.name.isdigit() for entry in named)
    files: list[Path] = []
    labels: list[int] = []
    classes: dict[int, str] = {}
    for position, entry in enumerate(named):
        label = int(entry.name) if numbers else position
        classes[label] = entry.name
        for image in _images_in(entry):
            files.append(image)
            labels.append(label)
    return tuple(files), tuple(labels), classes


def _images_in(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.suffix.lower() in _IMAGES and entry.is_file())


def _check_covered(source: Source, constants: Mapping[str, InputSpec], signature: Signature) -> None:
    given = {*source.load(0), *constants}
    wanted = {tensor.name for tensor in signature.inputs}
    if missing := sorted(wanted - given):
        raise SamplesInvalid(
            f"The samples do not exercise the model's input {missing[0]!r}.",
            where=source.where,
            next=f"add it to the samples, or say [inputs.{missing[0]}] value = … in mlopt.toml",
        )
    if extra := sorted(given - wanted):
        raise SamplesInvalid(
            f"The samples hold {extra[0]!r}, and the model has no such input.",
            where=source.where,
            next=f"the model's inputs are {', '.join(sorted(wanted))}",
        )


def _check_labels(source: Source, signature: Signature) -> None:
    if not source.labelled:
        return
    last = signature.outputs[0].shape[-1] if signature.outputs[0].shape else None
    if not isinstance(last, int):
        return
    for index in range(len(source)):
        if not 0 <= source.label(index) < last:
            raise LabelsMismatch(
                f"Sample {source.describe(index)} has label {source.label(index)}, "
                f"and the model's output {signature.outputs[0].name!r} has {last} classes (0 to {last - 1}).",
                where=source.where,
                next="correct the labels, or set [samples] label-offset in mlopt.toml",
            )


def _split(source: Source, seed: int, asked: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    groups: dict[str, list[int]] = {}
    for index, content in enumerate(mapped(source.content, range(len(source)))):
        rank = hashlib.sha256(f"{seed} {content}".encode()).hexdigest()
        groups.setdefault(rank, []).append(index)
    wanted = asked if asked is not None else min(_CALIBRATION, max(1, len(source) // 4))
    if wanted >= len(source):
        raise SamplesInvalid(
            f"Calibration was asked to take {wanted} of {len(source)} samples, which leaves none to evaluate on.",
            where=source.where,
            next="ask for fewer with [samples] calibration, or give more samples",
        )
    calibration: list[int] = []
    evaluation: list[int] = []
    for rank in sorted(groups):
        (calibration if len(calibration) < wanted else evaluation).extend(groups[rank])
    if not evaluation:
        raise SamplesInvalid(
            "All samples are copies of one another, so calibration and evaluation cannot be kept apart.",
            where=source.where,
            next="give at least two different samples",
        )
    return tuple(calibration), tuple(evaluation)
