"""ONNX Runtime, opened in one place, so that what was measured and what is served run in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

# The metadata of an ONNX file whose graph the runtime must not change: of integers between halves it rounds biases in
# half precision (its WeightBiasQuantization, 1.31), and a MobileNet answers nothing right then.
AS_WRITTEN: Final = "mlopt.as-written"


def opened(model: Path, options: Any, **how: Any) -> Any:
    """An onnxruntime.InferenceSession with these options, without its optimisations where the file forbids them; on
    the CPU, unless `how`, which are its other arguments, says otherwise.

    Raises whatever ONNX Runtime does.
    """
    import onnxruntime as ort

    how = how or {"providers": ["CPUExecutionProvider"]}
    session = ort.InferenceSession(str(model), options, **how)
    if AS_WRITTEN in session.get_modelmeta().custom_metadata_map:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(str(model), options, **how)
    return session
