"""Ranges of activations, observed on samples: what static quantization takes its scales from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    import numpy as np

    Feeds = Mapping[str, np.ndarray]

Calibrator = Literal["min-max", "percentile"]
_BINS: Final = 2048


@dataclass(frozen=True, slots=True)
class Range:
    """Lowest and highest value to represent exactly; what lies outside is clipped."""

    low: float
    high: float


def observe(
    model: Path,
    names: Iterable[str],
    feeds: Callable[[], Iterable[Feeds]],
    *,
    calibrator: Calibrator,
    percentile: float,
) -> dict[str, Range]:
    """Ranges by tensor name over all feeds, one query in memory at a time.

    `min-max` takes the extremes. `percentile` takes a second pass that counts values into 2048 bins between
    the extremes, and cuts (100 - percentile) / 2 percent at either end. `feeds` is called once for each pass.
    Raises `FloatingPointError` that names the first tensor with NaN or infinity in it.
    """
    import numpy as np

    outputs = sorted(set(names))
    session = _watched(model, outputs)
    extremes: dict[str, Range] = {}
    for feed in feeds():
        for name, value in zip(outputs, session.run(None, dict(feed)), strict=True):
            if not value.size:
                continue
            low, high = float(value.min()), float(value.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise FloatingPointError(name)
            seen = extremes.get(name, Range(low, high))
            extremes[name] = Range(min(low, seen.low), max(high, seen.high))
    if calibrator == "min-max":
        return extremes
    counts = {name: np.zeros(_BINS, dtype=np.int64) for name in extremes}
    for feed in feeds():
        for name, value in zip(outputs, session.run(None, dict(feed)), strict=True):
            if name in counts:
                counts[name] += _counted(value, extremes[name])
    return {name: _cut(counts[name], extremes[name], percentile) for name in extremes}


def _watched(model: Path, names: list[str]) -> Any:
    """A session of the model whose outputs are the tensors to observe, in the order of `names`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnx
    import onnxruntime as ort

    proto = onnx.load(str(model), load_external_data=False)
    del proto.graph.output[:]
    inputs = {value.name for value in proto.graph.input}
    for name in names:
        if name in inputs:  # an input can only be watched through a node
            proto.graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}__watched"]))
        proto.graph.output.append(onnx.ValueInfoProto(name=f"{name}__watched" if name in inputs else name))
    watched = model.with_name("watched.onnx")
    onnx.save(proto, str(watched))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # Fusion would hide the tensors between fused nodes.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(watched), options, providers=["CPUExecutionProvider"])
    watched.unlink()
    return session


def _counted(value: np.ndarray, extremes: Range) -> np.ndarray:
    import numpy as np

    width = extremes.high - extremes.low
    if width <= 0:
        return np.zeros(_BINS, dtype=np.int64)
    # float32 arithmetic may round the highest value up to one bin past the last.
    bins = ((value.ravel() - np.float32(extremes.low)) * np.float32(_BINS / width)).astype(np.int32)
    return np.bincount(np.minimum(bins, _BINS - 1, out=bins), minlength=_BINS)


def _cut(counts: np.ndarray, extremes: Range, percentile: float) -> Range:
    import numpy as np

    total = counts.sum()
    if not total:
        return extremes
    share = np.cumsum(counts) / total
    tail = (1 - percentile / 100) / 2
    edges = np.linspace(extremes.low, extremes.high, _BINS + 1)
    low = float(edges[np.searchsorted(share, tail)])
    high = float(edges[min(_BINS, int(np.searchsorted(share, 1 - tail)) + 1)])
    return Range(max(low, extremes.low), min(high, extremes.high))
