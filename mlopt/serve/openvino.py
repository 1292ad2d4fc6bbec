"""OpenVINO on the CPU, set up in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

# The metadata of an ONNX file that says in which type floating-point operators compute: f32 where it says nothing.
PRECISION: Final = "mlopt.inference-precision"
_CONVERTER: Final = "openvino.tools.ovc"


def library() -> Any:
    """The module openvino, without its converter: that one reports every import to its maker, and nothing here
    converts with it."""
    if sys.modules.get("openvino") is None:
        sys.modules.setdefault(_CONVERTER, None)  # type: ignore[arg-type]  # importing it fails, which is expected
        try:
            import openvino
        finally:
            if sys.modules[_CONVERTER] is None:
                del sys.modules[_CONVERTER]
        return openvino
    return sys.modules["openvino"]


def compiled(model: Path, *, threads: int) -> Any:
    """The ONNX file compiled for one query at a time. Raises RuntimeError, as OpenVINO does, when it cannot be."""
    core = library().Core()
    graph = core.read_model(str(model))
    said = ["framework", PRECISION]
    precision = graph.get_rt_info(said).astype(str) if graph.has_rt_info(said) else "f32"
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        # Two threads asked for are two threads, also where they share a core; and none is tied to one.
        "ENABLE_HYPER_THREADING": True,
        "ENABLE_CPU_PINNING": False,
        # Left to itself it computes in bfloat16 wherever the processor can.
        "INFERENCE_PRECISION_HINT": precision,
        "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
    }
    return core.compile_model(graph, "CPU", settings)


def output_names(compiled: Any) -> tuple[str, ...]:
    """Names of the outputs, in the model's order."""
    return tuple(output.get_any_name() for output in compiled.outputs)
