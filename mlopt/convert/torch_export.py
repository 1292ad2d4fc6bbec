"""From a torch module to an ONNX graph, and to the values inside the program that the graph was made from."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import onnx
import torch

from mlopt.convert.finish import check_file
from mlopt.convert.program import Request, first_line
from mlopt.convert.torch_load import Loaded
from mlopt.convert.torch_values import output_names, to_tensors
from mlopt.errors import ExportFailed, MloptError, UnsupportedModel

# Below this the exporter built on torch.export writes nothing that runs; the older one does.
_DYNAMO_OPSET: Final = 17
_NEWEST_TRACED: Final = 20
_NO_OPERATOR: Final = (
    re.compile(r"No (?:ONNX function|decompositions?) found for <OpOverload\(op='(?P<op>[^']+)'"),
    re.compile(r"(?:operator|Unsupported operator)s? '?(?P<op>[\w]+::[\w.]+)'?"),
)


def to_onnx(loaded: Loaded, *, opset: int, exporter: str, source: str) -> onnx.ModelProto:
    """Raises `UnsupportedModel` naming an operator that the exporter does not have, else `ExportFailed`."""
    try:
        with torch.no_grad():
            answer = loaded.module(**loaded.example)
    except Exception as error:  # the model is the user's code
        raise UnsupportedModel(
            f"The model does not run on its example inputs: {type(error).__name__}: {first_line(error)}",
            where=", ".join(f"{name} {list(value.shape)}" for name, value in loaded.example.items()),
            next="correct the example inputs that the factory gives, or [inputs] in mlopt.toml",
        ) from error
    names = output_names(answer)
    if exporter == "torchscript" or opset < _DYNAMO_OPSET:
        return traced(loaded, names, opset, source)
    with tempfile.TemporaryDirectory(prefix="mlopt-torch-") as scratch:
        path = Path(scratch) / "model.onnx"
        _program(loaded, names, opset, source).save(str(path))
        check_file(path)
        return onnx.load(str(path))


def traced(loaded: Loaded, names: list[str], opset: int, source: str) -> onnx.ModelProto:
    """Through the older exporter, which runs the module once and writes down what it did."""
    axes = {name: dict(axes) for name, axes in loaded.axes.items() if axes}
    if axes:
        axes |= {name: {0: "batch"} for name in names}
    with tempfile.TemporaryDirectory(prefix="mlopt-torch-") as scratch:
        path = Path(scratch) / "model.onnx"
        try:
            torch.onnx.export(
                loaded.module,
                tuple(loaded.example.values()),
                str(path),
                dynamo=False,
                opset_version=min(opset, _NEWEST_TRACED),
                input_names=list(loaded.example),
                output_names=names,
                dynamic_axes=axes,
            )
        except Exception as error:  # the exporter raises errors of many kinds
            raise _failed(error, source) from error
        check_file(path)
        return onnx.load(str(path))


def inner_values(loaded: Loaded, request: Request) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from feeds to the values of the exported program, by the names that its ONNX graph uses too."""
    program = _program(loaded, request["outputs"], request["opset"], request["model"]).exported_program

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        seen = _Watching(program.graph_module, set(request["watch"]))
        with torch.no_grad():
            seen.run(*_arguments(program, to_tensors(feeds, loaded.example)))
        return seen.values

    return run


class _Watching(torch.fx.Interpreter):  # type: ignore[misc]
    """Runs a graph node by node, and keeps the tensors of nodes that are watched."""

    def __init__(self, graph: Any, watched: set[str]) -> None:
        super().__init__(graph)
        self.watched, self.values = watched, dict[str, Any]()

    def run_node(self, node: Any) -> Any:
        value = super().run_node(node)
        if node.name in self.watched and isinstance(value, torch.Tensor):
            self.values[node.name] = value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        return value


def _arguments(program: Any, inputs: Mapping[str, torch.Tensor]) -> list[Any]:
    """What the program's graph takes: its parameters, buffers and constants, and the inputs, in its order."""
    state = {**dict(program.named_parameters()), **dict(program.named_buffers()), **program.constants}
    free = iter(inputs.values())
    return [
        next(free) if spec.kind.name == "USER_INPUT" else state[spec.target]
        for spec in program.graph_signature.input_specs
    ]


def _program(loaded: Loaded, names: list[str], opset: int, source: str) -> Any:
    """torch's ONNXProgram. A model that cannot have a dynamic batch is exported with that of its example."""
    example = {name: _at_least_two(value, loaded.axes.get(name, {})) for name, value in loaded.example.items()}
    dims = {name: {axis: torch.export.Dim(dim) for axis, dim in loaded.axes.get(name, {}).items()} for name in example}
    first: MloptError | None = None
    attempts: list[tuple[Any, Any, Any]] = [(example, dims, None), (loaded.example, None, None)]
    if loaded.program is not None:
        attempts = [({}, None, loaded.program)]
    for inputs, shapes, program in attempts:
        try:
            exported = torch.onnx.export(
                program or loaded.module,
                (),
                kwargs=None if program else inputs,
                dynamo=True,
                opset_version=opset,
                input_names=list(loaded.example),
                output_names=names,
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as error:  # the exporter raises errors of many kinds
            first = first or _failed(error, source)
        else:
            assert exported is not None
            return exported
    assert first is not None
    raise first


def _at_least_two(tensor: torch.Tensor, axes: Mapping[int, str]) -> torch.Tensor:
    """The example with no dynamic dimension of size one, which torch.export would take for a constant."""
    for axis in axes:
        if tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], dim=axis)
    return tensor


def _failed(error: BaseException, source: str) -> MloptError:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for pattern in _NO_OPERATOR:
        for each in chain:
            if match := pattern.search(str(each)):
                return UnsupportedModel(
                    f"torch's exporter has no ONNX operator for {match['op']!r}.",
                    where=source,
                    next="replace that operation in the model by standard ones, and export again",
                )
    root = chain[-1]
    return ExportFailed(
        f"torch's exporter failed: {type(root).__name__}: {first_line(root)}",
        where=source,
        next="torch.export must be able to follow the model: python branches on tensor values need torch.cond",
    )
