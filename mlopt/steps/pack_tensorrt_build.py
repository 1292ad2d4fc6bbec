"""What a device needs to build a TensorRT engine itself: the typed ONNX model and how it is to be built."""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mlopt.artifact import DEVICE_BUILD, ONNX, Artifact, Format, digest_of, files
from mlopt.engines import ShapeRange
from mlopt.errors import UnsupportedModel
from mlopt.prune.sparsity import sparsity_of

if TYPE_CHECKING:
    import onnx

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PackTensorrtBuild:
    """Types are those of the ONNX model; which of them TensorRT 8 has to be told of, is written down for it.
    `workspace` is what TensorRT may use while it tries kernels, in MiB; 0 is a quarter of the device's memory. With
    `sparse` it may take kernels that skip two of four weights. Raises `UnsupportedModel` where no layer has the
    pattern: that engine would be the dense one under another name.
    """

    name: ClassVar[str] = "pack-tensorrt-build"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = DEVICE_BUILD
    requires: ClassVar[tuple[str, ...]] = ("onnx",)

    max_batch: int = 8
    workspace: int = 0
    sparse: bool = False
    shapes: tuple[ShapeRange, ...] = ()

    def __post_init__(self) -> None:
        if self.max_batch < 1:
            raise ValueError("max-batch is less than 1")
        if self.workspace < 0:
            raise ValueError("workspace is less than 0")

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        if self.sparse and not sparsity_of(onnx.load(str(source.main))).of_four:
            raise UnsupportedModel(
                "No layer of the model has two of each four weights zero along its inputs, so there is nothing for "
                "sparse kernels.",
                where=str(source.main),
                next='put a step "prune-two-of-four" before it, and none that changes zeros after that one',
            )
        shutil.copytree(source.path, into / "model")
        model = into / "model" / source.main.name
        facts = {
            "model": f"model/{model.name}",
            "digest": source.digest,
            "bytes": sum(file.stat().st_size for file in files(into / "model")),
            "files": {file.relative_to(into).as_posix(): digest_of(file) for file in files(into / "model")},
            "types": types_in(onnx.load(str(model), load_external_data=False)),
            "shapes": [dataclasses.asdict(shape) for shape in self.shapes],
            "workspace": self.workspace * _MIB or None,
            "sparse": self.sparse,
        }
        (into / "build.json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")


def types_in(model: onnx.ModelProto) -> list[str]:
    """Which types besides fp32 a graph computes in: `fp16`, `int8`."""
    import onnx

    from mlopt.signature import walk

    half = onnx.TensorProto.FLOAT16
    quantized = {"QuantizeLinear", "DequantizeLinear"}
    found = {"fp16" for tensor in model.graph.initializer if tensor.data_type == half}
    for node in walk(model.graph):
        found |= {"int8"} if node.op_type in quantized else set()
        found |= {"fp16"} if any(field.name == "to" and field.i == half for field in node.attribute) else set()
    return sorted(found)
