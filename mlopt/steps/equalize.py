"""Equalisation: the same answers from weights whose channels are of like size, which integers hold better."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.precision.noise import answers, noise
from mlopt.repair.chains import Pair, pairs_of
from mlopt.repair.equalization import Balance, equalize
from mlopt.steps.calibrated import Calibrated
from mlopt.steps.qdq import blamed
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.watched import Watched

if TYPE_CHECKING:
    import numpy as np

    from mlopt.steps.histogram import Range

_SAME: Final = 80.0  # dB between the answers before and after, at least: what is left is rounding in float32


@dataclass(frozen=True, slots=True)
class Equalize(Calibrated):
    """Scale channels against what reads them, where that leaves every answer as it is; the model stays fp32.

    Three balances are tried (`repair/equalization.py`), and none: the one whose quantized model is nearest to the
    original on the first `samples` of `calibration` is kept. The other options say how that model is quantized, and
    are those of the `quantize-static` that follows.
    """

    name: ClassVar[str] = "equalize"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    samples: int = 32

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        result = into / "model.onnx"
        with prepared(source, optimize=True) as model:
            pairs = pairs_of(model.graph)
            onnx.save(model, str(result))
            if pairs:
                onnx.save(self._best(model, pairs, result), str(result))
        saved(result)

    def _best(self, model: Any, pairs: tuple[Pair, ...], original: Path) -> Any:
        """`original` is where `model` lies."""
        import onnx

        feeds = list(itertools.islice(self.calibration.feeds(batch=1), self.samples))
        exact = answers(original, feeds)
        with tempfile.TemporaryDirectory(prefix="mlopt-equalize-") as scratch:
            reach = self._reach(original, pairs)

            def power(tried: Any) -> float:
                ranges = self.qdq.observe(tried, self.calibration, Path(scratch), self.how, first=self.samples)
                quantized = Path(scratch) / "quantized.onnx"
                self.qdq.write(tried, ranges, quantized)
                return noise(exact, answers(quantized, feeds)).power

            best, least = model, power(model)
            for balance in get_args(Balance):
                tried = _balanced(model, pairs, reach, balance)
                path = Path(scratch) / "equalized.onnx"
                onnx.save(tried, str(path))
                if noise(exact, answers(path, feeds)).sqnr >= _SAME and (found := power(tried)) < least:
                    best, least = tried, found
        return best

    def _reach(self, model: Path, pairs: tuple[Pair, ...]) -> Mapping[str, np.ndarray]:
        watched = Watched(model, {pair.between[-1] for pair in pairs})
        feeds = itertools.islice(self.calibration.feeds(batch=1), self.samples)
        with blamed(self.calibration):
            seen = watched.collect(feeds, lambda name: _Reach())
        return {name: keeper.most for name, keeper in seen.items()}


class _Reach:
    """The largest magnitude of every channel."""

    def __init__(self) -> None:
        self.most: np.ndarray

    def add(self, value: np.ndarray, extremes: Range) -> None:
        import numpy as np

        now = np.abs(value).max(axis=tuple(axis for axis in range(value.ndim) if axis != 1))
        self.most = np.maximum(self.most, now) if hasattr(self, "most") else now


def _balanced(model: Any, pairs: tuple[Pair, ...], reach: Mapping[str, np.ndarray], balance: Balance) -> Any:
    """A copy of the model with its channels in balance."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    touched = {name for pair in pairs for layer in (pair.first, pair.second) for name in (layer.weight, layer.bias)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in copy.graph.initializer if tensor.name in touched}
    constants = {name: numpy_helper.to_array(tensor).astype(np.float64) for name, tensor in tensors.items()}
    equalize(pairs, constants, reach, balance)
    for name, tensor in tensors.items():
        tensor.CopyFrom(numpy_helper.from_array(constants[name].astype(np.float32), name))
    return copy
