"""torch sources: exported programs, weights with a factory, trusted pickles; export them, or run them for reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlopt.convert.finish import finish
from mlopt.convert.program import Request, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.torch_export import inner_values, to_onnx
from mlopt.convert.torch_load import Loaded, load
from mlopt.convert.torch_values import flat, to_tensors
from mlopt.sniff import TORCH_EXPORTED


def export(request: Request) -> Mapping[str, Any]:
    loaded = load(request)
    model = to_onnx(loaded, opset=request["opset"], exporter=request["exporter"], source=request["model"])
    finish(model, Path(request["into"]), given=request["inputs"], opset=request["opset"])
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    loaded = load(request)
    if request["watch"]:
        run = inner_values(loaded, request)
        write_reference(request, run, by_row=False)
        return {}
    names = request["outputs"]

    def run_source(feeds: Mapping[str, Any]) -> dict[str, Any]:
        with torch.no_grad():
            answer = loaded.module(**to_tensors(feeds, loaded.example))
        return dict(zip(names, (value.numpy() for value in flat(answer)), strict=True))

    write_reference(request, run_source, by_row=_fixed(loaded, request))
    return {}


def _fixed(loaded: Loaded, request: Request) -> bool:
    """Whether the source itself takes no other batch than that of its example: a program that was exported so."""
    if request["format"] != TORCH_EXPORTED:
        return False
    return not any(isinstance(size, torch.SymInt) for shape in loaded.shapes for size in shape)


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
