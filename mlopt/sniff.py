"""Which format a trained model has, by its content and never by its name; no framework is imported to find out."""

from __future__ import annotations

import json
import mmap
import re
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from mlopt.artifact import ONNX, Format
from mlopt.errors import ModelUnreadable
from mlopt.pickles import LEGACY_MAGIC, scan

TORCH_EXPORTED: Final = Format("torch-exported")
TORCHSCRIPT: Final = Format("torchscript")
TORCH_WEIGHTS: Final = Format("torch-weights")
TORCH_PICKLED: Final = Format("torch-pickled")
SAFETENSORS: Final = Format("safetensors")
KERAS: Final = Format("keras")
KERAS_WEIGHTS: Final = Format("keras-weights")
SAVED_MODEL: Final = Format("tensorflow-savedmodel")
TFLITE: Final = Format("tflite")

# A Lambda layer holds marshalled Python, which loading it runs.
_LAMBDA: Final = re.compile(rb'"class_name":\s*"Lambda"')
_LAMBDA_CODE: Final = ("a Lambda layer",)
_PICKLE_PROTOCOLS: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# Kinds of file that people pass by mistake, and what to say of them.
_LOOKS_LIKE: Final = (
    (b"GGUF", "a GGUF language model", "mlopt does not read GGUF; start from the model it was made from"),
    (b"ftrt", "a TensorRT engine", "an engine is bound to one GPU; start from the model it was built from"),
    (b"\x93NUMPY", "a numpy array", "give it as samples: --samples"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xff\xd8\xff", "a JPEG image", "give a folder of images as samples: --samples"),
    (b"\x89PNG", "a PNG image", "give a folder of images as samples: --samples"),
    (b"\x7fELF", "a program", ""),
    (b"<", "a web page or XML", "the download may have failed: open the file in a text editor"),
    (b"{", "JSON text", ""),
)
_READABLE: Final = (
    "ONNX, torch (.pt2, TorchScript, state_dict), safetensors, Keras (.keras, .h5), SavedModel folders, TFLite"
)


@dataclass(frozen=True, slots=True)
class Sniffed:
    """`code` names what loading the file would run beyond rebuilding tensors; empty when it is only data."""

    format: Format
    code: tuple[str, ...] = ()


def sniff(path: Path) -> Sniffed:
    """The format of a file or folder that exists. Raises `ModelUnreadable`, saying what it looks like instead."""
    if path.is_dir():
        return _folder(path)
    with path.open("rb") as stream:
        head = stream.read(64)
        if not head:
            raise ModelUnreadable(
                "The file is empty.", where=str(path), next="copy or download it again, and compare its size"
            )
        for matches, read in _KINDS:
            if matches(head):
                stream.seek(0)
                return read(path, stream)
    raise _unknown(path, head)


def _folder(path: Path) -> Sniffed:
    if (path / "saved_model.pb").is_file():
        return Sniffed(SAVED_MODEL)
    inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:4]) or "nothing"
    raise ModelUnreadable(
        f"The folder is no SavedModel: it holds {inside}, and no saved_model.pb.",
        where=str(path),
        next="give the model file itself, or the folder that holds saved_model.pb",
    )


def _zip(path: Path, stream: IO[bytes]) -> Sniffed:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
            _check_whole(path, archive)
            found = _zip_kind(path, archive, names)
    except (zipfile.BadZipFile, EOFError) as error:
        raise _damaged(path, "a zip archive (as torch and Keras write)", str(error)) from error
    if found:
        return found
    kind = "a numpy archive" if all(name.endswith(".npy") for name in names) else "a zip archive of another program"
    raise _not_a_model(path, f"{kind} (it holds {', '.join(names[:3])})", "")


def _zip_kind(path: Path, archive: zipfile.ZipFile, names: list[str]) -> Sniffed | None:
    inside = {name.partition("/")[2] or name for name in names}
    if {"config.json", "model.weights.h5"} <= set(names):
        return Sniffed(KERAS, _LAMBDA_CODE if _LAMBDA.search(archive.read("config.json")) else ())
    if "models/model.json" in inside or "serialized_exported_program.json" in names:
        pickles = [name for name in names if name.endswith((".pt", ".pkl"))]
        return Sniffed(TORCH_EXPORTED, tuple(sorted(set(_code_in_members(path, archive, pickles)))))
    if "constants.pkl" in inside and any(name.startswith("code/") for name in inside):
        return Sniffed(TORCHSCRIPT, ("TorchScript code",))
    if "data.pkl" in inside:
        pickled = next(name for name in names if name.endswith("/data.pkl") or name == "data.pkl")
        with archive.open(pickled) as member:
            return _pickled(path, member)
    return None


def _code_in_members(path: Path, archive: zipfile.ZipFile, names: list[str]) -> Iterator[str]:
    """What the pickles nested in a .pt2 archive would import; each may itself be a torch zip."""
    for name in names:
        with archive.open(name) as member:
            if zipfile.is_zipfile(member):
                member.seek(0)
                with zipfile.ZipFile(member) as inner:
                    nested = [entry for entry in inner.namelist() if entry.endswith(".pkl")]
                    yield from _code_in_members(path, inner, nested)
            elif archive.getinfo(name).file_size:
                member.seek(0)
                yield from _scanned(path, member)


def _check_whole(path: Path, archive: zipfile.ZipFile) -> None:
    """Compare every member with its checksum. When all differ, the writer was told not to compute them."""
    wrong = []
    members = [entry for entry in archive.infolist() if entry.file_size]
    for entry in members:
        try:
            with archive.open(entry) as member:
                while member.read(1 << 20):
                    pass
        except zipfile.BadZipFile:
            wrong.append(entry.filename)
    if wrong and len(wrong) < len(members):
        raise _damaged(path, "a zip archive (as torch and Keras write)", f"the checksum of {wrong[0]} does not match")


def _pickled(path: Path, stream: IO[bytes]) -> Sniffed:
    code = _scanned(path, stream)
    return Sniffed(TORCH_PICKLED, code) if code else Sniffed(TORCH_WEIGHTS)


def _scanned(path: Path, stream: IO[bytes]) -> tuple[str, ...]:
    try:
        return scan(stream).code
    except (ValueError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise _damaged(path, "a pickle (as torch writes)", str(error)) from error


def _hdf5(path: Path, stream: IO[bytes]) -> Sniffed:
    head = stream.read(64)
    size = path.stat().st_size
    # Versions 0 and 1 of the superblock hold the end of the file at byte 40, versions 2 and 3 at byte 28.
    (end,) = struct.unpack_from("<Q", head, 40 if head[8] < 2 else 28) if len(head) == 64 else (1 << 63,)
    if size < end:
        raise _damaged(path, "HDF5", f"it should have {end} bytes and has {size}")
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"model_config") >= 0:
            return Sniffed(KERAS, _LAMBDA_CODE if _LAMBDA.search(content) else ())
        # Keras 2 lists its layers by name, Keras 3 keeps a group of variables per layer.
        if content.find(b"layer_names") >= 0 or (content.find(b"layers") >= 0 and content.find(b"vars") >= 0):
            return Sniffed(KERAS_WEIGHTS)
    raise _not_a_model(path, "HDF5 data without a Keras model in it", "")


def _tflite(path: Path, stream: IO[bytes]) -> Sniffed:
    (root,) = struct.unpack("<I", stream.read(4))
    if root + 4 > path.stat().st_size:
        raise _damaged(path, "TFLite", "its table of contents lies behind its end")
    return Sniffed(TFLITE)


def _safetensors(path: Path, stream: IO[bytes]) -> Sniffed:
    (length,) = struct.unpack("<Q", stream.read(8))
    size = path.stat().st_size
    if 8 + length > size:
        raise _damaged(path, "safetensors", f"its header should have {length} bytes")
    try:
        header = json.loads(stream.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, "safetensors", "its header cannot be read") from error
    if 8 + length + max(ends, default=0) != size:
        raise _damaged(path, "safetensors", f"it should have {8 + length + max(ends, default=0)} bytes and has {size}")
    return Sniffed(SAFETENSORS)


def _protobuf(path: Path, stream: IO[bytes]) -> Sniffed:
    """ONNX or not, from the field numbers and wire types of the outermost message; contents are skipped."""
    size = path.stat().st_size
    with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        seen: set[tuple[int, int]] = set()
        position = 0
        while position < size:
            try:
                key, position = _varint(content, position)
                length, position = _varint(content, position)
            except IndexError:
                raise _damaged(path, "ONNX", "it ends within a field") from None
            if key & 7 not in (0, 2) or key >> 3 not in _ONNX_FIELDS:
                raise _unknown(path, content[:64])
            seen.add((key >> 3, key & 7))
            position += length if key & 7 == 2 else 0
    if (1, 0) not in seen or ((7, 2) not in seen and position == size):
        raise _unknown(path, b"")
    if position > size:
        raise _damaged(path, "ONNX", f"it should have at least {position} bytes and has {size}")
    return Sniffed(ONNX)


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return value, position


_ONNX_FIELDS: Final = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
Matches = Callable[[bytes], bool]
Read = Callable[[Path, IO[bytes]], Sniffed]


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] < 1 << 32


_KINDS: Final[tuple[tuple[Matches, Read], ...]] = (
    (lambda head: head.startswith(b"PK\x03\x04"), _zip),
    (lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"), _hdf5),
    (lambda head: head[4:8] == b"TFL3", _tflite),
    (_is_safetensors, _safetensors),
    (lambda head: head.startswith(_PICKLE_PROTOCOLS) or head[2:].startswith(LEGACY_MAGIC), _pickled),
    (lambda head: head[:1] == b"\x08", _protobuf),
)


def _damaged(path: Path, kind: str, reason: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"The file starts like {kind} and is truncated or damaged: {reason}.",
        where=str(path),
        next="copy or download it again, and compare its size or checksum with the original",
    )


def _not_a_model(path: Path, looks: str, next: str) -> ModelUnreadable:
    return ModelUnreadable(
        f"The file is no model that mlopt reads: it looks like {looks}.",
        where=str(path),
        next=next or f"mlopt reads {_READABLE}",
    )


def _unknown(path: Path, head: bytes) -> ModelUnreadable:
    for magic, looks, next in _LOOKS_LIKE:
        if head.startswith(magic):
            return _not_a_model(path, looks, next)
    if path.name == "saved_model.pb":
        return _not_a_model(path, "one part of a TensorFlow SavedModel", f"give its folder: {path.parent}")
    return _not_a_model(path, "nothing known", "")
