"""TensorRT for RTX: ONNX to an engine for named compute capabilities. It needs no GPU and no driver."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlopt.convert.program import Request, serve
from mlopt.errors import UnsupportedModel

_SAID: Final = 400
_NAMED: Final = 6
# What the compiler says, and what a person can do about it.
_NEXT: Final = (
    ("no optimization profile", "say least and most of that input under [inputs.NAME] in mlopt.toml"),
    ("FP32 GEMM is not supported", "compile it in half precision: --recipe rtx-fp16"),
    ("HW-specific datatypes", "mlopt targets show lists the precisions of each GPU; choose another recipe"),
    ("Compute capability is invalid", "mlopt targets show says what can be built for a target, and where"),
)


def build(request: Request) -> Mapping[str, Any]:
    """Compile `model` and write the engine to `into`; types are those of the ONNX model (strong typing)."""
    import tensorrt_rtx as trt

    heard: list[str] = []

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                heard.append(message)

    listener = Listener()
    builder = trt.Builder(listener)
    network = builder.create_network()
    parser = trt.OnnxParser(network, listener)
    if not (_parse_fp4(parser, request) if request["fp4"] else parser.parse_from_file(request["model"])):
        raise _refused_node(parser, trt.__version__, request)
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(request["compute_capabilities"])
    for number, capability in enumerate(request["compute_capabilities"]):
        wanted = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""), None)
        if wanted is None or not config.set_compute_capability(wanted, number):
            raise _refused(trt.__version__, request, ["Compute capability is invalid or not supported"])
    if request["shapes"]:
        profile = builder.create_optimization_profile()
        for shape in request["shapes"]:
            profile.set_shape(shape["name"], shape["least"], shape["usual"], shape["most"])
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _refused(trt.__version__, request, heard)
    Path(request["into"]).write_bytes(engine)
    return {"version": trt.__version__}


def _parse_fp4(parser: Any, request: Request) -> bool:
    """Parse the model with its weights in blocks handed over as fp4."""
    import onnx

    from mlopt.convert.fp4 import with_fp4

    with tempfile.TemporaryDirectory(prefix="mlopt-fp4-") as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(with_fp4(onnx.load(request["model"])), str(path))
        return bool(parser.parse_from_file(str(path)))


def _refused(version: str, request: Request, heard: list[str]) -> UnsupportedModel:
    said = _plain(heard[0]) if heard else "it gave no reason"
    return UnsupportedModel(
        f"TensorRT for RTX {version} does not compile this model for compute capability "
        f"{', '.join(request['compute_capabilities'])}: {said}",
        where=request["model"],
        next=next((advice for words, advice in _NEXT if words in said), ""),
    )


def _refused_node(parser: Any, version: str, request: Request) -> UnsupportedModel:
    if not parser.num_errors:
        return _refused(version, request, [])
    error = parser.get_error(0)
    node = _node(error) if error.node_operator() else "the model"
    others = list(dict.fromkeys(_node(parser.get_error(number)) for number in range(1, parser.num_errors)))
    nor = f"; nor {', '.join(others[:_NAMED])}{' …' if len(others) > _NAMED else ''}" if others else ""
    return UnsupportedModel(
        f"TensorRT for RTX {version} does not read {node}: {_plain(error.desc())}{nor}",
        where=request["model"],
        next="mlopt compile without this recipe, or replace the operator in the model",
    )


def _node(error: Any) -> str:
    return f"node {error.node_name()!r} ({error.node_operator()})"


def _plain(message: str) -> str:
    """The compiler's sentence, without its function names, places in its sources, and brackets around them."""
    inner = re.search(r"\((?:\[[^\]]*\] )?(.*?)\.? In \w+ at /", message, re.DOTALL)
    said = " ".join((inner[1] if inner else message.partition(": ")[2] or message).split())
    return said if len(said) <= _SAID else said[:_SAID] + " …"


if __name__ == "__main__":
    serve({"build": build})
