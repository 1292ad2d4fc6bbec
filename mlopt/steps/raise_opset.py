"""A newer opset, for steps and engines that write what the model's own does not have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.finish import converted


@dataclass(frozen=True, slots=True)
class RaiseOpset:
    """The same graph in `opset`, by onnx's own version converter; the answers are compared like any variant's.

    Plans put it before the steps of a recipe whose `min-opset` the exported model does not reach and the target reads:
    eight-bit floating point and half precision between integers came with opset 19. Raises `UnsupportedModel` where
    onnx cannot convert a node.
    """

    name: ClassVar[str] = "raise-opset"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    opset: int

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        model = converted(onnx.load(str(source.main)), self.opset)
        onnx.save(model, str(into / "model.onnx"))
        onnx.checker.check_model(str(into / "model.onnx"))
