"""Hybrid quantization: int8 weights, activations rounded in each query, floating point where that is too much."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import BudgetInfeasible, UnsupportedModel
from mlopt.intervals import Allowed
from mlopt.onnx_file import first_few
from mlopt.precision.groups import Group, groups_of
from mlopt.precision.noise import Noise, answers, power, spread
from mlopt.precision.order import Sensitivity
from mlopt.precision.search import Search
from mlopt.steps.hybrid import dense_layers, hybrid
from mlopt.steps.quantizer import prepared, saved

if TYPE_CHECKING:
    import numpy as np

    from mlopt.samples.generated import GeneratedSamples
    from mlopt.samples.samples import Samples


@dataclass(frozen=True, slots=True)
class QuantizeHybrid:
    """Dense convolutions and matrix products of int8 weights, whose inputs every query puts on a grid of its own, as
    LiteRT's kernels do ("dynamic range quantization"); the fewest of them stay in floating point with which answers to
    the first `samples` of `probe` keep `least_sqnr` decibel, as far as so few can tell.

    Nothing is taken from samples: what `probe` holds, generated inputs too, tells only how much noise there is. Dot
    products of less than `shortest_dot` terms stay in floating point, and depthwise convolutions. The file has
    DynamicQuantizeLinear and DequantizeLinear before each product. Raises `BudgetInfeasible` where too little is left.
    """

    name: ClassVar[str] = "quantize-hybrid"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    probe: Samples | GeneratedSamples
    shortest_dot: int = 48
    least_sqnr: float = 38.0
    samples: int = 16
    probes: int = 2

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        with prepared(source, optimize=True) as model, tempfile.TemporaryDirectory(prefix="mlopt-hybrid-") as scratch:
            layers = {layer.name: layer for layer in dense_layers(model.graph, self.shortest_dot)}
            if not layers:
                raise UnsupportedModel(
                    f"No convolution over all channels and no matrix product has {self.shortest_dot} terms or more.",
                    where=str(source.main),
                )
            trials = _Trials(self, model, layers, Path(scratch) / "model.onnx")
            kept = trials.searched(source)
            left = [layer for name, layer in layers.items() if name not in kept]
            result = into / "model.onnx"
            onnx.save(hybrid(model, left), str(result))
        notes = [f"{len(left)} products read int8 weights, and what each query rounds for itself"]
        if kept:
            notes.append(f"{len(kept)} of {len(layers)} stay in float32, too noisy in int8: {first_few(sorted(kept))}")
        saved(result, notes=notes)


class _Trials:
    """Variants of one model, written to `path`, and their noise."""

    def __init__(self, step: QuantizeHybrid, model: Any, layers: dict[str, Any], path: Path) -> None:
        import onnx

        self._step, self._model, self._layers, self._path = step, model, layers, path
        onnx.save(model, str(path))
        self._exact = answers(path, self._feeds(step.samples))

    def searched(self, source: Artifact) -> frozenset[str]:
        """The names of what stays in floating point."""
        allowed = Allowed(self._step.samples, sqnr=self._step.least_sqnr)
        everything = self._noise(())
        if everything.within(allowed):
            return frozenset()
        groups = [
            group for group in groups_of(self._model.graph, {"Conv", "Gemm", "MatMul"}) if group.name in self._layers
        ]
        each = [Sensitivity(group, self._alone(group)) for group in groups]
        mix = Search(each, allowed, self._noise, self._noise, lambda _: None).run(everything)
        if mix is None:
            raise BudgetInfeasible(
                f"In int8 its products leave {everything.sqnr:.1f} dB of signal to noise, and no mix that is worth "
                f"making keeps {self._step.least_sqnr:g}.",
                where=str(source.main),
            )
        return frozenset(group.name for group in mix.kept)

    def _noise(self, kept: tuple[Group, ...]) -> Noise:
        names = {group.name for group in kept}
        found = self._answers([name for name in self._layers if name not in names], self._step.samples)
        loudest = max(spread(*pair) for pair in zip(self._exact, found, strict=True))
        return Noise(power(self._exact, found), None, loudest, len(found[0]))

    def _alone(self, group: Group) -> float:
        return power(self._exact, self._answers([group.name], self._step.probes))

    def _answers(self, names: list[str], samples: int) -> list[np.ndarray]:
        import onnx

        onnx.save(hybrid(self._model, [self._layers[name] for name in names]), str(self._path))
        # As written: ONNX Runtime would make integer operators of its own of the pairs.
        return answers(self._path, self._feeds(samples), as_written=True)

    def _feeds(self, samples: int) -> list[dict[str, np.ndarray]]:
        return list(itertools.islice(self._step.probe.feeds(batch=1), samples))
