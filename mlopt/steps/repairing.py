"""Quantization whose weights and biases are made good for the errors before them; shared by static and mixed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.precision.noise import answers, noise
from mlopt.repair.repair import WeightGrid, repair, with_biases
from mlopt.steps.histogram import Range
from mlopt.steps.qdq import Qdq

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

_COMPARED: Final = 32  # samples on which the repaired model must be nearer to the original than the plain one


@dataclass(frozen=True, slots=True)
class Weights:
    """`model` in floating point, and the `grids` that `Qdq.write` is to put its weights on."""

    model: Any
    grids: Mapping[str, WeightGrid]


def repaired(
    qdq: Qdq, model: Any, ranges: Mapping[str, Range], samples: Samples, *, keep: Iterable[str] = ()
) -> Weights:
    """Weights and biases of `model` for its quantized copy (`repair/repair.py`); its own, on no grids, where the copy
    is then no nearer to what `model` answers. The nodes named in `keep` stay in floating point."""
    import onnx

    keep = tuple(keep)
    feeds = list(itertools.islice(samples.feeds(batch=1), _COMPARED))
    better = onnx.ModelProto()
    better.CopyFrom(model)
    with_biases(better)
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(model, str(path))
        exact = answers(path, feeds)
        qdq.write(model, ranges, path, keep=keep)
        plain = noise(exact, answers(path, feeds)).power
        qdq.write(better, ranges, path, keep=keep)
        grids = repair(better, onnx.load(str(path)), samples.feeds(batch=1), paired=qdq.paired)
        qdq.write(better, ranges, path, keep=keep, grids=grids)
        nearer = noise(exact, answers(path, feeds)).power < plain
    return Weights(better, grids) if nearer else Weights(model, {})
