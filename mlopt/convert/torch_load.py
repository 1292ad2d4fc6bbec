"""From a torch file to a module in evaluation mode with example inputs by name."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from mlopt.convert.program import Request, first_line
from mlopt.convert.torch_values import flat
from mlopt.errors import Misused, ModelUnreadable, NeedsFactory, UnsupportedModel
from mlopt.signature import FREE_SIZE, InputSpec, Shape
from mlopt.sniff import SAFETENSORS, TORCH_EXPORTED, TORCH_PICKLED

_NESTED: Final = ("state_dict", "model_state_dict", "model", "net", "params", "weights")
_WRAPPED: Final = "module."  # what torch's DataParallel puts before every key
_SHOWN: Final = 4


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module ready to be called with `example` by name. `axes` names dynamic dimensions, per input and axis.

    `program` is the exported program when the source is one; `shapes` are its inputs' shapes.
    """

    module: Any
    example: dict[str, torch.Tensor]
    axes: dict[str, dict[int, str]]
    program: Any = None
    shapes: tuple[tuple[Any, ...], ...] = ()


def load(request: Request) -> Loaded:
    """The source of a request. Raises `ModelUnreadable`, `NeedsFactory`, `Misused` when inputs are not known."""
    sys.path.insert(0, request["root"])
    if request["format"] == TORCH_EXPORTED:
        return _exported(request)
    module, example = _module(request)
    module.eval().requires_grad_(False)
    return _with_example(module, example, request)


def _exported(request: Request) -> Loaded:
    try:
        program = torch.export.load(request["model"])
    except Exception as error:  # torch raises what it likes on damaged archives
        raise _unreadable(request, error) from error
    args, kwargs = program.example_inputs or ((), {})
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    tensors = list(flat([args, kwargs]))
    shapes = tuple(
        tuple(node.meta["val"].shape) for node in program.graph.nodes if node.op == "placeholder" and node.name in names
    )
    if len(tensors) != len(names):
        raise UnsupportedModel(
            "The exported program does not carry one example per input.",
            where=request["model"],
            next="export it again with torch.export.export(model, args) and torch.export.save",
        )
    return Loaded(_by_keyword(program), dict(zip(names, tensors, strict=True)), {}, program, shapes)


def _by_keyword(program: Any) -> Callable[..., Any]:
    """The program as a function of its inputs' own names, in their order, however they are nested in its call."""
    module = program.module()

    def run(**named: torch.Tensor) -> Any:
        args, kwargs = torch.utils._pytree.tree_unflatten(list(named.values()), program.call_spec.in_spec)
        return module(*args, **kwargs)

    return run


def _module(request: Request) -> tuple[Any, Any]:
    found = _content(request)
    if isinstance(found, torch.nn.Module):
        return found, None
    weights = _weights(found, request)
    if not request["factory"]:
        raise NeedsFactory(
            "The file holds weights only (a state_dict), so there is no graph to export.",
            where=request["model"],
            next="name the callable that builds the model: --factory pkg.mod:build",
        )
    module, example = _built(request)
    _fill(module, weights, request)
    return module, example


def _content(request: Request) -> Any:
    try:
        if request["format"] == SAFETENSORS:
            from safetensors.torch import load_file

            return load_file(request["model"])
        # Only a file that --trust was given for arrives as TORCH_PICKLED.
        return torch.load(request["model"], map_location="cpu", weights_only=request["format"] != TORCH_PICKLED)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ModelUnreadable(
            f"The pickle needs code that is not here: {first_line(error)}",
            where=request["model"],
            next="run mlopt from the folder of the project that the model was saved in",
        ) from error
    except Exception as error:  # torch and safetensors raise what they like on damaged files
        raise _unreadable(request, error) from error


def _weights(found: Any, request: Request) -> dict[str, torch.Tensor]:
    """The state_dict itself, or the one that a checkpoint keeps under a usual name."""
    while isinstance(found, Mapping) and not any(isinstance(value, torch.Tensor) for value in found.values()):
        nested = next((found[key] for key in _NESTED if isinstance(found.get(key), Mapping)), None)
        if nested is None:
            raise ModelUnreadable(
                f"The file holds no weights that mlopt can find; its keys are {', '.join(map(str, list(found)[:6]))}.",
                where=request["model"],
                next="save only the weights: torch.save(model.state_dict(), path)",
            )
        found = nested
    if not isinstance(found, Mapping):
        raise ModelUnreadable(
            f"The file holds a {type(found).__name__}, not a model and not a state_dict.", where=request["model"]
        )
    tensors = {str(name): value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if all(name.startswith(_WRAPPED) for name in tensors):
        tensors = {name.removeprefix(_WRAPPED): value for name, value in tensors.items()}
    return tensors


def _built(request: Request) -> tuple[Any, Any]:
    name = request["factory"]
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        made = factory()
    except Exception as error:  # a factory is the user's code: whatever it raises is what they need to see
        raise NeedsFactory(
            f"The factory {name!r} failed: {type(error).__name__}: {first_line(error)}",
            where=_place(error),
            next="it must import, and build the model when called without arguments",
        ) from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, torch.nn.Module):
        raise NeedsFactory(
            f"The factory {name!r} returned a {type(module).__name__}.",
            next="return an nn.Module, or (module, example_inputs)",
        )
    return module, example


def _fill(module: Any, weights: dict[str, torch.Tensor], request: Request) -> None:
    own = module.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in weights and name not in counters]
    unexpected = [name for name in weights if name not in own]
    shapes = [
        f"{name} is {list(weights[name].shape)} in the file and {list(own[name].shape)} in the model"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    if missing or unexpected or shapes:
        parts = [f"missing {_some(missing)}"] if missing else []
        parts += [f"unexpected {_some(unexpected)}"] if unexpected else []
        parts += [_some(shapes, "; ")] if shapes else []
        raise NeedsFactory(
            f"The model that {request['factory']!r} builds does not fit the weights: {'; '.join(parts)}.",
            where=request["model"],
            next="use the factory of the architecture that the weights were trained with",
        )
    module.load_state_dict(weights, strict=not counters)


def _with_example(module: Any, example: Any, request: Request) -> Loaded:
    given = described(request)
    if example is None:
        example = getattr(module, "example_inputs", None)
    parameters = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    tensors = _by_name(example, parameters) if example is not None else example_from(given)
    if not tensors:
        raise Misused(
            "The model's inputs are not known: neither its factory nor mlopt.toml says their shapes.",
            where=f"its forward takes {', '.join(parameters) or 'nothing'}",
            next="return (module, example_inputs) from the factory, or say them in mlopt.toml, [inputs]: "
            f'{(parameters or ["x"])[0]} = "float32[N,3,224,224]"',
        )
    return Loaded(module, tensors, _axes(module, tensors, given))


def _by_name(example: Any, parameters: list[str]) -> dict[str, torch.Tensor]:
    if isinstance(example, Mapping):
        return dict(example)
    values = example if isinstance(example, (tuple, list)) else (example,)
    return dict(zip(parameters, values, strict=False))


def described(request: Request) -> dict[str, InputSpec]:
    """What the person said of the shapes of inputs, by name."""
    given = {name: InputSpec.parse(text) for name, text in request["inputs"].items()}
    return {name: spec for name, spec in given.items() if spec.shape is not None}


def example_from(given: Mapping[str, InputSpec]) -> dict[str, torch.Tensor]:
    """Tensors of the shapes and dtypes that were described; a dynamic dimension gets a usual size."""
    made = {}
    for name, spec in given.items():
        usual = (2, *[FREE_SIZE] * len(spec.shape or ()))
        shape = [size if isinstance(size, int) else usual[axis] for axis, size in enumerate(spec.shape or ())]
        dtype = getattr(torch, spec.dtype or "float32")
        made[name] = torch.rand(shape).to(dtype) if dtype.is_floating_point else torch.ones(shape, dtype=dtype)
    return made


def _axes(
    module: Any, example: Mapping[str, torch.Tensor], given: Mapping[str, InputSpec]
) -> dict[str, dict[int, str]]:
    """Dynamic dimensions by name: what was said, else the module's `dynamic_axes`, else the first of each input."""
    said: Mapping[str, dict[int, str]] = getattr(module, "dynamic_axes", {})
    return {
        name: _named(given[name].shape) if name in given else said.get(name, _first(x)) for name, x in example.items()
    }


def _named(shape: Shape | None) -> dict[int, str]:
    return {axis: dim for axis, dim in enumerate(shape or ()) if isinstance(dim, str)}


def _first(tensor: torch.Tensor) -> dict[int, str]:
    return {0: "batch"} if tensor.ndim else {}


def _some(names: list[str], joint: str = ", ") -> str:
    return joint.join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""


def _unreadable(request: Request, error: Exception) -> ModelUnreadable:
    return ModelUnreadable(
        f"torch cannot read the file: {first_line(error)}",
        where=request["model"],
        next="copy or download it again, and compare its size or checksum with the original",
    )
