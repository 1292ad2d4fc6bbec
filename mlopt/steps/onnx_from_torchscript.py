"""TorchScript to ONNX. Loading an archive runs code from it, so one gets here only with --trust."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.sniff import TORCHSCRIPT
from mlopt.steps.exporting import export


@dataclass(frozen=True, slots=True)
class OnnxFromTorchScript:
    """Export a traced or scripted archive through torch's TorchScript exporter, which knows opsets up to 20.

    `inputs` gives shape and dtype of each input, as `InputSpec.parse` reads it: an archive does not say them.
    Raises `Misused` without it, `ModelUnreadable`, `UnsupportedModel`, `ExportFailed`.
    """

    name: ClassVar[str] = "onnx-from-torchscript"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({TORCHSCRIPT})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "torch")

    opset: int = 17
    inputs: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        export("torchscript", source, into, opset=min(self.opset, 20), inputs=self.inputs, limits=self.limits)
