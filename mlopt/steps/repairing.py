"""Quantization whose weights and biases are made good for the errors before them; shared by static and mixed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlopt.precision.noise import answers, power
from mlopt.repair.moments import with_biases
from mlopt.repair.repair import WeightGrid, repair
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


def nearer(qdq: Qdq, ranges: Mapping[str, Range], samples: Samples, plain: Weights, better: Weights) -> Weights:
    """`better`, but `plain` where the quantized copy with the better ones is no nearer to what the model with the plain
    ones answers on the first few samples."""
    import onnx

    feeds = list(itertools.islice(samples.feeds(batch=1), _COMPARED))
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        path = Path(scratch) / "model.onnx"
        onnx.save(plain.model, str(path))
        exact = answers(path, feeds)
        powers = []
        for weights in (plain, better):
            qdq.write(weights.model, ranges, path, grids=weights.grids)
            powers.append(power(exact, answers(path, feeds)))
    return better if powers[1] < powers[0] else plain


def mended(qdq: Qdq, model: Any, ranges: Mapping[str, Range], samples: Samples, *, keep: Iterable[str] = ()) -> Weights:
    """Weights and biases of `model` made good for the errors of its quantized copy (`repair/repair.py`). The nodes
    named in `keep` stay in floating point."""
    import onnx

    better = onnx.ModelProto()
    better.CopyFrom(model)
    with_biases(better)
    with tempfile.TemporaryDirectory(prefix="mlopt-repair-") as scratch:
        path = Path(scratch) / "model.onnx"
        qdq.write(better, ranges, path, keep=keep)
        quantized = onnx.load(str(path))
    return Weights(better, repair(better, quantized, samples.feeds(batch=1), paired=qdq.paired))


def but(weights: Weights, model: Any, keep: Collection[str]) -> Weights:
    """`weights`, with those of the nodes named in `keep` as they are in `model`, which was not repaired."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(weights.model)
    nodes = [node for node in copy.graph.node if node.name in keep]
    read = {name for node in nodes for name in node.input}
    original = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in copy.graph.initializer:
        if tensor.name in read:  # a bias that was not there was added as zeros
            none = numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name)
            tensor.CopyFrom(original.get(tensor.name, none))
    return Weights(copy, {name: grid for name, grid in weights.grids.items() if name not in read})
