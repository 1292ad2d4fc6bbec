"""What every export ends with: a graph that is named, plain, verified to run, and the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlopt.convert.batch import settle_batch
from mlopt.convert.rewrite import without_erfc
from mlopt.errors import ExportFailed, UnsupportedModel
from mlopt.onnx_file import save
from mlopt.signature import InputSpec, signature_of, walk

_STANDARD: Final = ("", "ai.onnx")
_NUMBERED: Final = re.compile(r"(unk__|s|u)\d+")  # what tf2onnx and torch call dimensions that nobody named


def finish(model: Any, into: Path, *, given: Mapping[str, str], opset: int, beside: Path | None = None) -> None:
    """Write `model` below `into` as the result of an export; `given` are input descriptions as `InputSpec.parse`.

    Raises `UnsupportedModel` for an operator that is not in ONNX or that ONNX Runtime does not have.
    """
    without_erfc(model)
    _check_operators(model)
    model = _at_most(model, opset, external=beside is not None)
    _strip(model)
    _name_nodes(model.graph)
    _name_dimensions(model.graph)
    model = settle_batch(model, beside=beside, given={name: InputSpec.parse(text) for name, text in given.items()})
    save(model, into, beside=beside)


def rename(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Give inputs and outputs other names, in place, wherever they are used."""
    names = {**inputs, **outputs}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in walk(model.graph):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def converted(model: Any, opset: int) -> Any:
    """The model in another opset. Raises `UnsupportedModel` when onnx cannot convert one of its nodes."""
    import onnx

    try:
        return onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # the C++ converter raises RuntimeError and its own types alike
        have = signature_of(model).opset
        raise UnsupportedModel(
            f"The model uses opset {have}, and its conversion to opset {opset} failed: {str(error).splitlines()[0]}",
            next=f"export it again with opset {opset}, or choose a target whose runtime supports opset {have}",
        ) from error


def _at_most(model: Any, opset: int, *, external: bool) -> Any:
    have = signature_of(model).opset
    if have <= opset:
        return model
    if external:
        raise UnsupportedModel(
            f"The model uses opset {have}, the target's runtime supports {opset}, and a model with external weights "
            "cannot be converted.",
            next=f"export it again with opset {opset}",
        )
    return converted(model, opset)


def _check_operators(model: Any) -> None:
    import onnx

    opset = signature_of(model).opset
    local = {(function.domain, function.name) for function in model.functions}
    for node in walk(model.graph):
        known = node.domain not in _STANDARD or onnx.defs.has(node.op_type, opset, "")
        if not known and (node.domain, node.op_type) not in local:
            raise UnsupportedModel(
                f"The model holds operator {node.op_type!r}, which ONNX opset {opset} does not have.",
                where=f"node {node.name or node.output[0]}",
                next="replace that operation in the model by standard ones and export again",
            )


def _strip(model: Any) -> None:
    """Drop what would differ between machines or contradict the graph: notes, stack traces, stale shapes."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    for node in walk(model.graph):
        node.doc_string = ""
        del node.metadata_props[:]


def _name_nodes(graph: Any) -> None:
    """A name for every node, unique, so that errors and quantizers can speak of it."""
    taken: set[str] = set()
    for number, node in enumerate(walk(graph)):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
        while node.name in taken:
            node.name += "_"
        taken.add(node.name)


def _name_dimensions(graph: Any) -> None:
    """`batch` for a dimension that leads an input and that an exporter only numbered; others by tensor and axis."""
    values = [value for value in (*graph.input, *graph.output) if value.type.HasField("tensor_type")]
    shapes = [value.type.tensor_type.shape.dim for value in values]
    first = {dims[0].dim_param for dims in shapes[: len(graph.input)] if dims}
    leads = {name for name in first if _NUMBERED.fullmatch(name)}
    for value, dims in zip(values, shapes, strict=True):
        for axis, dim in enumerate(dims):
            unknown = dim.dim_value < 0 or not (dim.dim_param or dim.HasField("dim_value"))
            if dim.dim_param in leads or ((unknown or dim.dim_param.startswith("unk__")) and axis == 0):
                dim.dim_param = "batch"
            elif unknown or dim.dim_param.startswith("unk__"):
                dim.dim_param = f"{value.name}_dim_{axis}"


def check_file(path: Path) -> None:
    """Raises `ExportFailed` when an exporter said it succeeded and left no file."""
    if not path.is_file() or not path.stat().st_size:
        raise ExportFailed("The exporter ended without an error and wrote no model.", where=str(path))
