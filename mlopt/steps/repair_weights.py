"""Weights that make good for quantization as a step of their own: what repairs all of a model shares them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.repair.repair import WeightGrid
from mlopt.step import Make
from mlopt.steps.calibrated import Calibrated, common
from mlopt.steps.observe_ranges import observed
from mlopt.steps.quantizer import prepared, unshared
from mlopt.steps.repairing import Weights, mended

_GRIDS = "grids.json"


@dataclass(frozen=True, slots=True)
class RepairWeights(Calibrated):
    """The model in floating point with weights and biases repaired for all of it in int8, and beside it the grids that
    the weights lie on. A part of other steps."""

    name: ClassVar[str] = "repair-weights"
    version: ClassVar[int] = 4
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, source: Artifact, into: Path) -> None:
        with unshared() as make:
            self.compose(source, into, make)

    def compose(self, source: Artifact, into: Path, make: Make) -> None:
        import onnx

        with prepared(source, optimize=True) as model:
            weights = mended(self.qdq, model, observed(self, source, make), self.calibration)
        onnx.save(weights.model, str(into / "model.onnx"))
        grids = {name: dataclasses.asdict(grid) for name, grid in weights.grids.items()}
        (into / _GRIDS).write_text(json.dumps(grids, indent=1))


def wholly_mended(options: Calibrated, source: Artifact, make: Make) -> Weights:
    """Those of the whole model."""
    import onnx

    made = make(RepairWeights(**common(options)), source)
    grids = json.loads((made.path / _GRIDS).read_bytes())
    return Weights(
        onnx.load(str(made.main)),
        {
            name: WeightGrid(tuple(grid["scale"]), tuple(grid["zero_point"]), grid["axis"])
            for name, grid in grids.items()
        },
    )
