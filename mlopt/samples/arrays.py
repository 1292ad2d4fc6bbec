"""Samples that are arrays: an `.npz`, or whatever a callable of the user's gives, spooled to disk and mapped."""

from __future__ import annotations

import importlib
import shutil
import struct
import sys
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from mlopt.errors import LabelsMismatch, SamplesInvalid
from mlopt.samples.preprocess import settle
from mlopt.samples.sources import MappedArrays, Stamp

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.open import Asked
    from mlopt.signature import Tensor

_LOCAL_NAMES: Final = 26  # where the lengths of a local file header's name and extra field stand (APPNOTE.TXT, 4.3.7)
_SMALL: Final = 1 << 16
_LABELS: Final = ("y", "label", "labels", "class_index")


def from_npz(path: Path, free: list[Tensor], asked: Asked) -> MappedArrays:
    """Arrays by input name (or one array of any name for a model with one free input), labels in `y`.

    All are memory-mapped, so memory does not grow with their size: where they lie, or unpacked to disk first if they
    are compressed.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        stamp = Stamp.of(path)
        with zipfile.ZipFile(path) as archive:
            for member in sorted(archive.infolist(), key=lambda one: one.filename):
                arrays[member.filename.removesuffix(".npy")] = _mapped(path, archive, member)
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise SamplesInvalid(
            f"The .npz cannot be read: {error}.", where=str(path), next="write it again with numpy.savez"
        ) from error
    labels = next((arrays.pop(name) for name in _LABELS if name in arrays), None)
    return replace(_bound(arrays, labels, str(path), free, asked), file=stamp)


def _mapped(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    """Raises `ValueError` for what is no array of numbers."""

    if member.compress_type != zipfile.ZIP_STORED:
        with _unnamed() as unpacked, archive.open(member) as packed:
            shutil.copyfileobj(packed, unpacked)
            unpacked.seek(0)
            return _array(unpacked, member)
    with path.open("rb") as stream:
        stream.seek(member.header_offset + _LOCAL_NAMES)
        named, extra = struct.unpack("<HH", stream.read(4))
        stream.seek(stream.tell() + named + extra)
        return _array(stream, member)


def _array(stream: IO[bytes], member: zipfile.ZipInfo) -> np.ndarray:
    """The array of an .npy that begins here, mapped."""
    import numpy as np

    if member.file_size < _SMALL:  # nothing can be mapped of what is empty
        return np.asarray(np.load(stream, allow_pickle=False))
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects")
    return np.memmap(stream, dtype, mode="r", offset=stream.tell(), shape=shape, order="F" if fortran else "C")


def from_callable(name: str, free: list[Tensor], asked: Asked) -> MappedArrays:
    """`pkg.mod:callable`, called without arguments, gives an iterable of samples.

    A sample is an array, a mapping of arrays by input name, or a pair of either and a whole number (its
    label). Nothing has a batch dimension. Each sample is written to disk as it comes.
    """
    import numpy as np

    spool = _Spool()
    labels: list[int] = []
    for number, sample in enumerate(_called(name, asked.root)):
        value, label = sample if isinstance(sample, tuple) and len(sample) == 2 else (sample, None)
        row = dict(value) if isinstance(value, Mapping) else {"": np.asarray(value)}
        spool.add(row, number, name)
        if label is not None:
            labels.append(int(label))
    if spool.count == 0:
        raise SamplesInvalid("The callable gave no samples.", where=name, next="make it give at least two")
    if labels and len(labels) != spool.count:
        raise LabelsMismatch(
            f"{len(labels)} of {spool.count} samples have a label.", where=name, next="give all of them one, or none"
        )
    return _bound(spool.arrays(), np.array(labels) if labels else None, name, free, asked)


def _called(name: str, root: Path) -> Iterator[Any]:
    """The samples, one by one; `root` stays importable while the person's code runs. Whatever that code raises is
    about the samples, so it is said as `SamplesInvalid`."""
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(root.resolve()))
    try:
        yield from getattr(importlib.import_module(module_name), attribute)()
    except (ImportError, AttributeError) as error:
        raise SamplesInvalid(
            f"{name} cannot be called: {error}.", where=name, next="check the name; it is looked up from this folder"
        ) from error
    except Exception as error:
        raise SamplesInvalid(
            f"{name} raised {type(error).__name__}: {error}", where=name, next=f"call {name} in Python to see where"
        ) from error
    finally:
        sys.path.remove(str(root.resolve()))


class _Spool:
    """One growing raw file per input; sizes are known only at the end."""

    def __init__(self) -> None:
        self.count = 0
        self._files: defaultdict[str, IO[bytes]] = defaultdict(_unnamed)
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}

    def add(self, row: Mapping[str, np.ndarray], number: int, where: str) -> None:
        import numpy as np

        for name, value in row.items():
            array = np.ascontiguousarray(value)
            kind = self._kinds.setdefault(name, (array.dtype, array.shape))
            if kind != (array.dtype, array.shape):
                raise SamplesInvalid(
                    f"Sample number {number} is {array.dtype} {list(array.shape)}, and those before it were "
                    f"{kind[0]} {list(kind[1])}.",
                    where=where,
                    next="make all samples of one shape and dtype",
                )
            self._files[name].write(array.tobytes())
        self.count += 1

    def arrays(self) -> dict[str, np.ndarray]:
        import numpy as np

        mapped: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in self._kinds.items():
            with self._files.pop(name) as file:
                file.flush()
                mapped[name] = np.memmap(file, dtype=dtype, mode="r", shape=(self.count, *shape))
        return mapped


def _bound(
    arrays: dict[str, np.ndarray], labels: np.ndarray | None, where: str, free: list[Tensor], asked: Asked
) -> MappedArrays:
    if len(arrays) == 1 and len(free) == 1:
        arrays = {free[0].name: next(iter(arrays.values()))}
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1:
        raise SamplesInvalid(
            f"The arrays hold different numbers of samples: {sorted(counts)}.", where=where, next="make them equal"
        )
    if labels is not None and len(labels) != min(counts):
        raise LabelsMismatch(
            f"There are {len(labels)} labels for {min(counts)} samples.", where=where, next="correct the labels"
        )
    if labels is not None:
        labels = labels.reshape(len(labels)) + asked.label_offset
    by_name = {tensor.name: tensor for tensor in free}
    prepare = {
        name: settle(asked.preprocess, by_name[name]) for name in arrays if _is_image(arrays[name], by_name, name)
    }
    return MappedArrays(where, arrays, labels, dict(enumerate(asked.classes)), prepare)


def _is_image(array: np.ndarray, tensors: Mapping[str, Tensor], name: str) -> bool:
    """uint8 [N, H, W, 1 or 3] where the model wants something else: pictures, to be prepared."""
    from mlopt.samples.samples import fits

    if name not in tensors or array.dtype.name != "uint8" or array.ndim != 4 or array.shape[-1] not in (1, 3):
        return False
    tensor = tensors[name]
    return not (tensor.dtype == "uint8" and fits(array.shape[1:], tensor.shape[1:]))


def _unnamed() -> IO[bytes]:
    """A file that is on disk as long as it is open or mapped, and that no kill can leave behind."""
    return tempfile.TemporaryFile(prefix="mlopt-samples-")
