"""Quantization whose weights and biases make good for the errors before them, where that helps."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.precision.noise import answers, noise
from mlopt.repair.repair import repair, with_biases
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

_COMPARED: Final = 32  # samples on which the repaired model must be nearer to the original than the plain one


def write_repaired(qdq: Qdq, model: Any, ranges: Mapping[str, Range], samples: Samples, into: Path) -> None:
    """What `qdq.write` writes, with repaired weights and biases (`repair/repair.py`); as it is where that is no nearer
    to what `model` answers."""
    import onnx

    feeds = list(itertools.islice(samples.feeds(batch=1), _COMPARED))
    repaired = onnx.ModelProto()
    repaired.CopyFrom(model)
    with_biases(repaired)
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(model, str(path))
        exact = answers(path, feeds)
        qdq.write(repaired, ranges, path)
        grids = repair(repaired, onnx.load(str(path)), samples.feeds(batch=1), seven_bits=qdq.seven_bits)
        qdq.write(repaired, ranges, path, grids=grids)
        better = noise(exact, answers(path, feeds)).power
    qdq.write(model, ranges, into)
    if better < noise(exact, answers(into, feeds)).power:
        qdq.write(repaired, ranges, into, grids=grids)
