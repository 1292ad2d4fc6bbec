"""A model told in which type its floating-point operators shall compute, where the runtime lets one say so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.onnx_file import load_graph, note, notes_of, save

NARROW: Final = "what is not int8 computes in bfloat16, which holds eight bits of a number"


@dataclass(frozen=True, slots=True)
class SetPrecision:
    """Write the type into the model's metadata, where OpenVINO's runner and the server read it; weights stay as they
    are. `bf16` is for processors that multiply it: others compute slower with it, not faster."""

    name: ClassVar[str] = "set-precision"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    precision: Literal["f32", "bf16"] = "f32"

    def __post_init__(self) -> None:
        if self.precision not in ("f32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}, and there are 'f32' and 'bf16'")

    def run(self, source: Artifact, into: Path) -> None:
        from mlopt.serve.openvino import PRECISION

        model = load_graph(source.main)
        mixed = self.precision != "f32" and any(node.op_type == "QuantizeLinear" for node in model.graph.node)
        note(model, [*notes_of(model), *([NARROW] if mixed else [])])
        model.metadata_props.add(key=PRECISION, value=self.precision)
        save(model, into, beside=source.main.parent)
