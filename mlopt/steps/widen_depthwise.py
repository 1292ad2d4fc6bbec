"""Depthwise convolutions as wide as integer kernels like them: a few channels of zeros, and the same answers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format, files
from mlopt.prune.widen import widen
from mlopt.steps.quantizer import prepared, saved


@dataclass(frozen=True, slots=True)
class WidenDepthwise:
    """Add channels of zeros to depthwise convolutions until their number is a multiple of `multiple`.

    Integer kernels take such a block at a time and the rest one by one: ONNX Runtime needs for 120 channels 2.5 times
    as long as for 128. Where more than the part `most` would be added, or where something else depends on the number,
    a convolution stays as it is; a model with none to widen comes out as it went in.
    """

    name: ClassVar[str] = "widen-depthwise"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")

    multiple: int = 16
    most: float = 0.25

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        with prepared(source, optimize=True) as model:
            wider = widen(model, multiple=self.multiple, most=self.most)
        if wider is None:
            for file in files(source.path):
                shutil.copyfile(file, into / file.relative_to(source.path))
        else:
            onnx.save(wider, str(into / "model.onnx"))
            saved(into / "model.onnx")
