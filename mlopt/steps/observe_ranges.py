"""Ranges of a model's activations as a step of their own, so that whatever quantizes it finds them made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, RANGES, Artifact, Format
from mlopt.step import Make
from mlopt.steps.calibrated import Calibrated, common
from mlopt.steps.histogram import Range
from mlopt.steps.quantizer import prepared


@dataclass(frozen=True, slots=True)
class ObserveRanges(Calibrated):
    """Of the tensors that the scheme gives pairs, by name, over all of `calibration`. A part of other steps."""

    name: ClassVar[str] = "observe-ranges"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = RANGES
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=True) as model:
            ranges = self.qdq.observe(model, self.calibration, into, self.how)
        stored = {name: [seen.low, seen.high] for name, seen in ranges.items()}
        (into / "ranges.json").write_text(json.dumps(stored, indent=1))


def observed(options: Calibrated, source: Artifact, make: Make) -> dict[str, Range]:
    """The ranges, in the order in which they were found."""
    made = make(ObserveRanges(**common(options)), source)
    return {name: Range(*ends) for name, ends in json.loads(made.main.read_bytes()).items()}
