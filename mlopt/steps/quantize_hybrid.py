"""Hybrid quantization: int8 weights, activations rounded in each query, floating point where that is too much."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import BudgetInfeasible, UnsupportedModel
from mlopt.intervals import Allowed
from mlopt.onnx_file import first_few
from mlopt.precision.groups import Group, groups_of
from mlopt.precision.noise import Noise, answers, power, spread
from mlopt.precision.order import Sensitivity
from mlopt.precision.search import Search
from mlopt.repair.layers import Layer
from mlopt.runners.litert import LiteRtRunner
from mlopt.steps.hybrid import dense_layers, hybrid
from mlopt.steps.quantizer import prepared, saved

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples

    Feeds = Sequence[Mapping[str, np.ndarray]]

_MANY: Final = 1 << 20  # inputs that judge: what these few tell of them is uncertain by their own number alone
_HOPELESS: Final = 20.0  # decibel that are missing where all is int8: no quarter of the work in it has so little noise


@dataclass(frozen=True, slots=True)
class QuantizeHybrid:
    """Dense convolutions and matrix products of int8 weights, which round what they read in each query, as LiteRT's
    kernels do ("dynamic range quantization"); the fewest of them stay in floating point with which answers to the first
    `samples` of `probe` keep `least_sqnr` decibel.

    Nothing is taken from samples: what `probe` holds, generated inputs too, tells only how much noise there is, in
    LiteRT itself. Dot products of less than `shortest_dot` terms stay in floating point, and depthwise convolutions.
    The file has DynamicQuantizeLinear and DequantizeLinear before each product, with one range for a query; LiteRT has
    one for each sample, and for each pixel that a 1 × 1 convolution reads. In a recipe, `least_sqnr` may be "auto":
    what the profile's agreement takes. Raises `UnsupportedModel` for what a .tflite file cannot hold,
    `BudgetInfeasible` where too little would be left in int8.
    """

    name: ClassVar[str] = "quantize-hybrid"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("ai-edge-litert", "flatbuffers", "numpy", "onnx", "onnxruntime")

    probe: Samples | GeneratedSamples
    shortest_dot: int = 48
    least_sqnr: float = 40.0
    samples: int = 32
    probes: int = 2

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        with prepared(source, optimize=True) as model, tempfile.TemporaryDirectory(prefix="mlopt-hybrid-") as scratch:
            layers = {layer.name: layer for layer in dense_layers(model.graph, self.shortest_dot)}
            if not layers:
                raise UnsupportedModel(
                    "No convolution over all channels, and no matrix product, has float32 weights of its own and "
                    f"{self.shortest_dot} terms or more.",
                    where=str(source.main),
                )
            trials = _Trials(self, model, layers, Path(scratch) / "model.onnx")
            kept, noise = self._searched(trials, model.graph, source)
            left = [layer for name, layer in layers.items() if name not in kept]
            onnx.save(hybrid(model, left), str(into / "model.onnx"))
        notes = [
            f"int8 weights, and activations rounded in each query: {noise.sqnr:.1f} dB of signal to noise on "
            f"{noise.seen} inputs"
        ]
        if kept:
            notes.append(f"too noisy in int8: {first_few([name for name in layers if name in kept])}")
        saved(into / "model.onnx", notes=notes)

    def _searched(self, trials: _Trials, graph: Any, source: Artifact) -> tuple[frozenset[str], Noise]:
        """The names of what stays in floating point, and the noise that is left."""
        allowed, everything = Allowed(_MANY, sqnr=self.least_sqnr), trials.noise(())
        if not math.isfinite(everything.power):
            raise UnsupportedModel(
                "What it answers is no number, so that noise cannot be told.", where=str(source.main)
            )
        if everything.within(allowed):
            return frozenset(), everything
        mix = None
        if everything.sqnr + _HOPELESS > self.least_sqnr:
            groups = [one for one in groups_of(graph, {"Conv", "Gemm", "MatMul"}) if one.name in trials.layers]
            each = [Sensitivity(group, trials.alone(group, self.probes)) for group in groups]
            mix = Search(each, allowed, trials.noise, trials.noise, lambda _: None).run(everything)
        if mix is None:
            asked = f"{self.least_sqnr:.1f}" if math.isfinite(self.least_sqnr) else "every answer for certain"
            raise BudgetInfeasible(
                f"In int8 its products leave {everything.sqnr:.1f} dB of signal to noise, and no mix that is worth "
                f"making keeps {asked}.",
                where=str(source.main),
                next="give samples, by which ranges are observed: --samples",
            )
        return frozenset(group.name for group in mix.kept), mix.noise


class _Trials:
    """Variants of one model, written to `path` and run in LiteRT, and their noise."""

    def __init__(self, step: QuantizeHybrid, model: Any, layers: Mapping[str, Layer], path: Path) -> None:
        import onnx

        self.layers, self.feeds = layers, list(itertools.islice(step.probe.feeds(batch=1), step.samples))
        self._model, self._path = model, path
        onnx.save(model, str(path))
        self._exact = answers(path, self.feeds)
        self._seen: dict[tuple[Group, ...], Noise] = {}

    def noise(self, kept: tuple[Group, ...]) -> Noise:
        if kept not in self._seen:
            names = {group.name for group in kept}
            found = self._answers([layer for name, layer in self.layers.items() if name not in names], self.feeds)
            loudest = max(spread(*pair) for pair in zip(self._exact, found, strict=True))
            self._seen[kept] = Noise(power(self._exact, found), None, loudest, len(self.feeds))
        return self._seen[kept]

    def alone(self, group: Group, probes: int) -> float:
        """The noise power of one of them on so many inputs."""
        return power(self._exact, self._answers([self.layers[group.name]], self.feeds[:probes]))

    def _answers(self, layers: list[Layer], feeds: Feeds) -> list[np.ndarray]:
        import numpy as np
        import onnx

        onnx.save(hybrid(self._model, layers), str(self._path))
        with LiteRtRunner(self._path, threads=1) as runner:
            rows = [runner.infer(feed) for feed in feeds]
        return [np.concatenate([np.atleast_1d(row[place]) for row in rows]) for place in range(len(rows[0]))]
