"""Quantization whose weights and biases are made good for the errors before them; shared by static and mixed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlopt.repair.repair import repair, with_biases
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples


def write_repaired(
    qdq: Qdq,
    model: Any,
    ranges: Mapping[str, Range],
    samples: Samples,
    into: Path,
    *,
    keep: Iterable[str] = (),
) -> None:
    """What `qdq.write` writes, with repaired weights and biases (`repair/repair.py`)."""
    import onnx

    repaired = onnx.ModelProto()
    repaired.CopyFrom(model)
    with_biases(repaired)
    keep = tuple(keep)
    qdq.write(repaired, ranges, into, keep=keep)
    grids = repair(repaired, onnx.load(str(into)), samples.feeds(batch=1), seven_bits=qdq.seven_bits)
    qdq.write(repaired, ranges, into, keep=keep, grids=grids)
