"""Equalisation: the same answers from weights whose channels are of like size, which integers hold better."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.precision.groups import PRODUCTS
from mlopt.precision.noise import answers, power
from mlopt.repair.chains import Pair, pairs_of
from mlopt.repair.equalization import Balance, equalize
from mlopt.repair.migration import Norm, fork, join, migrate, norms_of, separate
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.qdq import blamed
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.watched import Watched

if TYPE_CHECKING:
    import numpy as np

    from mlopt.steps.histogram import Range

    Change = Callable[[dict[str, np.ndarray]], None]

_SAME: Final = 1e-8  # of the answers' power, at most, changes: what is left is rounding in float32


@dataclass(frozen=True, slots=True)
class Equalize(Calibrated):
    """Scale channels against what reads them, where that leaves every answer as it is; the model stays fp32.

    Four balances between layers are tried (`repair/equalization.py`), and none, then outliers behind normalisations
    moved into the products that read them (`repair/migration.py`), and not: what makes the quantized model nearest to
    the original on the first `samples` of `calibration` is kept. The other options say how that model is quantized,
    and are those of the `quantize-static` that follows. With `repair`, which makes good for the rounding of weights,
    only that of activations counts.
    """

    name: ClassVar[str] = "equalize"
    version: ClassVar[int] = 7
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    repair: bool = False
    samples: int = 16

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        result = into / "model.onnx"
        with prepared(source, optimize=True) as model:
            onnx.save(model, str(result))
            separate(model.graph)
            fork(model.graph)
            pairs, norms = pairs_of(model.graph), norms_of(model.graph)
            if pairs or norms:
                onnx.save(model, str(result))
                best = self._best(model, pairs, norms, result)
                join(best.graph)
                onnx.save(best, str(result))
        saved(result)

    def _best(self, model: Any, pairs: tuple[Pair, ...], norms: tuple[Norm, ...], original: Path) -> Any:
        """`original` is where `model` lies."""
        import onnx

        feeds = list(itertools.islice(self.calibration.feeds(batch=1), self.samples))
        exact = answers(original, feeds)
        with tempfile.TemporaryDirectory(prefix="mlopt-equalize-") as scratch:
            path = Path(scratch) / "model.onnx"

            def noise(tried: Any) -> float:
                """Infinite where rounding in float32 changed the answers already."""
                onnx.save(tried, str(path))
                if power(exact, answers(path, feeds)) > _SAME:
                    return math.inf
                ranges = self.qdq.observe(tried, self.calibration, Path(scratch), self.how, first=self.samples)
                self.qdq.write(tried, ranges, path)
                if self.repair:
                    onnx.save(_with_weights_of(tried, onnx.load(str(path))), str(path))
                return power(exact, answers(path, feeds, as_written=self.repair))

            best, least = model, noise(model)
            for rivals in self._changes(original, pairs, norms):
                start = best
                for change in rivals:
                    tried = _changed(start, change)
                    if (found := noise(tried)) < least:
                        best, least = tried, found
        return best

    def _changes(self, model: Path, pairs: tuple[Pair, ...], norms: tuple[Norm, ...]) -> Iterator[list[Change]]:
        """Changes of which at most one is made, for one such choice after the other."""
        axes = {pair.between[-1]: 1 for pair in pairs} | {norm.output: -1 for norm in norms}
        watched = Watched(model, axes)
        feeds = itertools.islice(self.calibration.feeds(batch=1), self.samples)
        with blamed(self.calibration):
            seen = watched.collect(feeds, lambda name: _Reach(axes[name]))
        reach = {name: keeper.most for name, keeper in seen.items()}
        if pairs:
            yield [partial(equalize, pairs, reach=reach, balance=balance) for balance in get_args(Balance)]
        if norms:
            yield [partial(migrate, norms, reach=reach)]


def _with_weights_of(model: Any, quantized: Any) -> Any:
    """`quantized`, a copy of `model` with pairs, whose products read the weights and biases of `model` as they are."""
    import onnx

    exact = {tensor.name: tensor for tensor in model.graph.initializer}
    read = {node.name: node.input for node in model.graph.node}
    stored = {tensor.name for tensor in quantized.graph.initializer}
    pairs = [node for node in quantized.graph.node if node.op_type == "DequantizeLinear"]
    rounded = {node.output[0] for node in pairs if node.input[0] in stored}
    given: dict[str, Any] = {}
    for node in quantized.graph.node:
        for place, name in enumerate(node.input):
            if name in rounded and node.op_type in PRODUCTS:
                tensor = onnx.TensorProto()
                tensor.CopyFrom(exact[read[node.name][place]])
                node.input[place] = tensor.name = f"{tensor.name}__exact"
                given[tensor.name] = tensor
    quantized.graph.initializer.extend(given.values())
    return quantized


class _Reach:
    """The largest magnitude at every place of one axis."""

    def __init__(self, axis: int) -> None:
        self.axis = axis
        self.most: np.ndarray

    def add(self, value: np.ndarray, extremes: Range) -> None:
        import numpy as np

        kept = self.axis % value.ndim
        now = np.abs(value).max(axis=tuple(axis for axis in range(value.ndim) if axis != kept))
        self.most = np.maximum(self.most, now) if hasattr(self, "most") else now


def _changed(model: Any, change: Change) -> Any:
    """A copy of the model with other constants."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    before = {name: numpy_helper.to_array(tensor).astype(np.float64) for name, tensor in tensors.items()}
    after = dict(before)
    change(after)
    for name, array in after.items():
        if array is not before[name]:
            tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return copy
