"""TorchScript archives: export them by tracing, or run them for reference. Loading one runs code from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlopt.convert.finish import finish
from mlopt.convert.program import Request, first_line, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.torch_export import traced
from mlopt.convert.torch_load import Loaded, described, example_from
from mlopt.convert.torch_values import flat, output_names, to_tensors
from mlopt.errors import Misused, ModelUnreadable, UnsupportedModel


def export(request: Request) -> Mapping[str, Any]:
    loaded = _load(request)
    try:
        with torch.no_grad():
            answer = loaded.module(*loaded.example.values())
    except Exception as error:  # the archive is the user's code
        raise UnsupportedModel(
            f"The archive does not run on inputs of these shapes: {first_line(error)}",
            where=", ".join(f"{name} {list(value.shape)}" for name, value in loaded.example.items()),
            next='give the shapes that it was made for in mlopt.toml, [inputs]: NAME = "float32[N,3,224,224]"',
        ) from error
    model = traced(loaded, output_names(answer), request["opset"], request["model"])
    finish(model, Path(request["into"]), given=request["inputs"], opset=request["opset"])
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    loaded = _load(request)

    def run(feeds: Mapping[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            answer = loaded.module(*to_tensors(feeds, loaded.example).values())
        return dict(zip(request["outputs"], (value.numpy() for value in flat(answer)), strict=True))

    write_reference(request, run, by_row=False)
    return {}


def _load(request: Request) -> Loaded:
    try:
        module = torch.jit.load(request["model"], map_location="cpu").eval()
    except Exception as error:  # torch raises what it likes on damaged archives
        raise ModelUnreadable(
            f"torch cannot read the TorchScript archive: {first_line(error)}", where=request["model"]
        ) from error
    names = [argument.name for argument in module.forward.schema.arguments[1:]]
    given = described(request)
    if unknown := sorted(set(given) - set(names)):
        raise Misused(f"The model has no input {unknown[0]!r}.", where=f"it takes {', '.join(names)}")
    example = example_from({name: given[name] for name in names if name in given})
    if not example:
        raise Misused(
            "A TorchScript archive does not say the shapes of its inputs.",
            where=f"it takes {', '.join(names)}",
            next=f'say them in mlopt.toml, [inputs]: {names[0] if names else "x"} = "float32[N,3,224,224]"',
        )
    axes = {
        name: {axis: dim for axis, dim in enumerate(given[name].shape or ()) if isinstance(dim, str)}
        for name in example
    }
    return Loaded(module, example, axes)


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
