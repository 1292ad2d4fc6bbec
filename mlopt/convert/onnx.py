"""ONNX sources: normalise a graph, and run it without any optimisation for reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlopt.convert.finish import converted, finish
from mlopt.convert.program import Request, serve
from mlopt.convert.reference import write_reference
from mlopt.convert.session import OrtFailed, Session
from mlopt.errors import UnsupportedModel
from mlopt.onnx_file import external_tensors, load_graph
from mlopt.signature import signature_of


def export(request: Request) -> Mapping[str, Any]:
    source = Path(request["model"])
    model = load_graph(source)
    external = any(True for _ in external_tensors(model))
    if signature_of(model).opset < request["minimum_opset"] and not external:
        model = converted(model, min(request["minimum_opset"], request["opset"]))
    finish(
        model,
        Path(request["into"]),
        given=request["inputs"],
        opset=request["opset"],
        beside=source.parent if external else None,
    )
    return {}


def reference(request: Request) -> Mapping[str, Any]:
    watch = request["watch"]
    try:
        session = Session(Path(request["model"]), watch=watch)
        fixed = signature_of(Path(request["model"])).batch is None
        write_reference(request, session.run, by_row=fixed)
    except OrtFailed as error:
        raise UnsupportedModel(f"ONNX Runtime cannot run the source: {error.reason}", where=error.node) from error
    return {}


if __name__ == "__main__":
    serve({"export": export, "reference": reference})
