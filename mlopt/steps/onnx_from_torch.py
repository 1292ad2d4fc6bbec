"""torch to ONNX: exported programs, weights with the factory that builds their model, trusted pickles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits
from mlopt.factory import Factory
from mlopt.sniff import SAFETENSORS, TORCH_EXPORTED, TORCH_PICKLED, TORCH_WEIGHTS
from mlopt.steps.exporting import export


@dataclass(frozen=True, slots=True)
class OnnxFromTorch:
    """Export through torch.export (`dynamo`), or by tracing (`torchscript`) what that cannot take.

    `opset` is the newest that the target's runtime supports. `factory` builds the module for weights. `inputs`
    describes inputs, by name, as `InputSpec.parse` reads it; names in a shape are dynamic dimensions.
    Raises `NeedsFactory` when the factory does not fit the weights, `ModelUnreadable`, `UnsupportedModel`,
    `ExportFailed`.
    """

    name: ClassVar[str] = "onnx-from-torch"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({TORCH_EXPORTED, TORCH_PICKLED, TORCH_WEIGHTS, SAFETENSORS})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime", "onnxscript", "safetensors", "torch")

    opset: int = 18
    factory: Factory | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)
    exporter: Literal["dynamo", "torchscript"] = "dynamo"
    limits: Limits = field(default_factory=Limits)

    def run(self, source: Artifact, into: Path) -> None:
        export(
            "torch",
            source,
            into,
            opset=self.opset,
            inputs=self.inputs,
            limits=self.limits,
            exporter=self.exporter,
            **factory_request(self.factory),
        )


def factory_request(factory: Factory | None) -> dict[str, str | None]:
    """How a factory is named to the converter, which imports it with its project's folder first on the path."""
    return {"factory": factory.name if factory else None, "root": str(factory.root if factory else Path.cwd())}
