"""ONNX files that may keep their weights beside them: read the graph, edit it, write it; weights stay on disk."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlopt.errors import ModelUnreadable
from mlopt.signature import walk

PROTOBUF_LIMIT: Final = 2**31 - 1
# A protobuf message ends there; the margin leaves room for the graph itself.
_ONE_FILE: Final = 1_800_000_000
_NOTES: Final = "mlopt.notes"
_NAMED: Final = 6
_HALF: Final = {"INT4", "UINT4", "FLOAT4E2M1"}  # two elements share a byte


@dataclass(frozen=True, slots=True)
class ExternalTensor:
    """`end` is the first byte of the file after the tensor; 0 when the model does not say how long it is."""

    name: str
    location: str
    end: int


def note(model: Any, notes: Iterable[str]) -> None:
    """Put sentences on what was decided in making a model into its metadata, in place of what is there."""
    del model.metadata_props[:]
    if said := list(notes):
        model.metadata_props.add(key=_NOTES, value=json.dumps(said))


def first_few(names: Sequence[str]) -> str:
    """Nodes as a note names them."""
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def notes_in(path: Path) -> tuple[str, ...]:
    """The sentences that `note` put there."""
    return notes_of(load_graph(path))


def notes_of(model: Any) -> tuple[str, ...]:
    """The same of an onnx.ModelProto."""
    props = {entry.key: entry.value for entry in model.metadata_props}
    return tuple(str(said) for said in json.loads(props.get(_NOTES, "[]")))


def load_graph(path: Path) -> Any:
    """The onnx.ModelProto of a file, its external weights unread. Raises `ModelUnreadable`."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise ModelUnreadable(
                "The file is larger than 2 GB, which no ONNX file with its weights inside can be read as.",
                where=str(path),
                next="save it again with its weights beside it: onnx.save(model, path, save_as_external_data=True)",
            ) from error
        raise ModelUnreadable(
            "The file starts like ONNX and is truncated or damaged.",
            where=str(path),
            next="copy or download it again, and compare its size or checksum with the original",
        ) from error
    if not model.graph.node:
        raise ModelUnreadable("The ONNX model has no nodes: it computes nothing.", where=str(path))
    return model


def context_files(model: Any, path: Path) -> tuple[Path, ...]:
    """What a runtime compiled of the model and keeps beside it. Raises `ModelUnreadable` for a name that leads out of
    the model's folder: what lies there is native code, and is run."""
    named = []
    for node in model.graph.node:
        said = attributes_of(node) if node.op_type == "EPContext" else {"embed_mode": 1}
        if said.get("embed_mode", 1) == 0:
            named.append(path.parent / bytes(said.get("ep_cache_context", b"")).decode(errors="replace"))
    for file in named:
        if not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
            raise ModelUnreadable(
                f"The model names a compiled part that does not lie beside it: {file.name}.",
                where=str(path),
                next="make it again with the step pack-ep-context, and keep its files together",
            )
    return tuple(named)


def readers_of(graph: Any) -> dict[str, list[Any]]:
    """Nodes by what they read, once for each time; an output of the graph is read by None."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in read_by(node):
            readers.setdefault(name, []).append(node)
    for value in graph.output:
        readers.setdefault(value.name, []).append(None)
    return readers


def read_by(node: Any) -> Iterator[str]:
    """Every tensor that a node reads, from inside its sub-graphs too."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            for deeper in inner.node:
                yield from read_by(deeper)
            yield from (value.name for value in inner.output)


def inferred(model: Any, sizes: Mapping[str, tuple[int, ...]]) -> Any:
    """The graph of a copy with the shapes that follow from these of its inputs, as far as they can be inferred."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for value in copy.graph.input:
        for dim, size in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
            dim.Clear()
            dim.dim_value = size
    for value in copy.graph.output:  # their own dimensions may contradict those
        value.type.tensor_type.ClearField("shape")
    try:
        return onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # a graph that contradicts itself, or those sizes: then its values are of unknown size
        return copy.graph


def shapes_in(graph: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Element type and shape of every value whose shape is wholly known, weights among them."""
    known = {
        value.name: (
            value.type.tensor_type.elem_type,
            tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim),
        )
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type
        and value.type.tensor_type.HasField("shape")
        and all(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    }
    return known | {tensor.name: (tensor.data_type, tuple(tensor.dims)) for tensor in graph.initializer}


def bytes_of(kind: int, shape: Iterable[int]) -> int:
    """What a tensor of this element type takes; two values of four bits share a byte."""
    import onnx

    count = math.prod(shape)
    if onnx.TensorProto.DataType.Name(kind) in _HALF:
        return (count + 1) // 2
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def rewrite(source: Path, into: Path, change: Callable[[Any], bool]) -> None:
    """Write the model at `source` to `into`, changed and checked; byte for byte as it was where `change`, given the
    onnx.ModelProto, says that it changed nothing."""
    import onnx

    model = onnx.load(str(source))
    if change(model):
        onnx.save(model, str(into))
        onnx.checker.check_model(str(into))
    else:
        shutil.copyfile(source, into)


def names_in(graph: Any) -> set[str]:
    """Every name of a tensor or a node, in sub-graphs too."""
    from mlopt.signature import walk

    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in walk(graph):
        names.update((node.name, *node.input, *node.output))
        inner = (attribute.g for attribute in node.attribute if attribute.HasField("g"))
        names.update(tensor.name for each in inner for tensor in (*each.initializer, *each.input))
    return names


def drop_unread(graph: Any) -> None:
    """Remove the initializers that nothing reads any more: no node, none inside a sub-graph, no output; but for those
    that a caller may replace."""
    readers = readers_of(graph).keys() | {value.name for value in graph.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in readers]:
        graph.initializer.remove(tensor)


def attributes_of(node: Any) -> dict[str, Any]:
    """Its attributes by name, as Python values."""
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def work_of(path: Path) -> str:
    """What a model computes but for the numbers: one digest for all files with the same operators, with the same
    attributes, on weights of the same shapes and types, that tell a runtime the same (in which precision to compute,
    for one). It runs the same kernels for them."""
    model = load_graph(path)
    graph = model.graph
    said = [
        (node.domain, node.op_type, sorted(one.SerializeToString(deterministic=True) for one in node.attribute))
        for node in graph.node
    ]
    weights = [(tuple(tensor.dims), tensor.data_type) for tensor in graph.initializer if len(tensor.dims) > 1]
    told = [(entry.key, entry.value) for entry in model.metadata_props if entry.key != _NOTES]
    return hashlib.sha256(repr((sorted(said), sorted(weights), sorted(told))).encode()).hexdigest()


def external_tensors(model: Any) -> Iterator[ExternalTensor]:
    """Every tensor of the model, in sub-graphs too, whose bytes lie in another file."""
    for tensor in _all_tensors(model):
        if tensor.data_location == tensor.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            end = int(said.get("offset", 0)) + int(said["length"]) if "length" in said else 0
            yield ExternalTensor(tensor.name, said.get("location", ""), end)


def save(model: Any, into: Path, *, beside: Path | None = None) -> None:
    """Write `model.onnx` into a folder, the same bytes for the same model.

    `beside` is the folder where the model's external weights lie now: they are linked or copied along. Without
    any, weights go into `model.data` when one file cannot hold them.
    """
    import onnx

    external = sorted({tensor.location for tensor in external_tensors(model)})
    for location in external:
        assert beside is not None
        (into / location).parent.mkdir(parents=True, exist_ok=True)
        _link(beside / location, into / location)
    if not external and model.ByteSize() > _ONE_FILE:
        onnx.save_model(
            model, str(into / "model.onnx"), save_as_external_data=True, location="model.data", size_threshold=1024
        )
        return
    (into / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _link(source: Path, target: Path) -> None:
    """A hard link where the file system allows one: artifacts are immutable, so two may share their bytes."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _all_tensors(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for function in model.functions:
        for node in function.node:
            yield from _held(node)
    for node in walk(model.graph):
        yield from _held(node)


def _held(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (attribute.g, *attribute.graphs) if attribute.type in (5, 10) else ():
            yield from graph.initializer
