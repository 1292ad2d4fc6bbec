"""int8 for TensorRT by nvidia-modelopt, which a Python of its own runs: it cannot be installed beside mlopt."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from mlopt.array_files import save_arrays
from mlopt.artifact import ONNX, Artifact, Format
from mlopt.convert.process import Limits, convert
from mlopt.errors import SamplesInvalid, UnsupportedModel
from mlopt.interpreter import MODELOPT, OtherPython
from mlopt.onnx_file import save
from mlopt.precision.groups import PRODUCTS
from mlopt.steps.quantizer import prepared, saved, third_party

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

Calibrator = Literal["entropy", "max"]


@dataclass(frozen=True, slots=True)
class QuantizeModelopt:
    """QuantizeLinear/DequantizeLinear pairs where nvidia-modelopt puts them, by ranges that it observes; what is not
    int8 stays in fp32. `calibrator` is its own `entropy` or `max`. It starts from the graph that mlopt's own int8
    starts from."""

    name: ClassVar[str] = "quantize-modelopt"
    version: ClassVar[int] = 1
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("numpy", "onnx", "onnxruntime")
    python: ClassVar[OtherPython] = MODELOPT

    calibration: Samples
    calibrator: Calibrator = "entropy"
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Raises `ValueError` for a calibrator that modelopt does not have."""
        if self.calibrator not in get_args(Calibrator):
            raise ValueError(f"calibrator is {self.calibrator!r}, and there are {', '.join(get_args(Calibrator))}")

    def run(self, source: Artifact, into: Path) -> None:
        import onnx

        result = into / "model.onnx"
        with (
            prepared(source, optimize=True) as model,
            tempfile.TemporaryDirectory(prefix="mlopt-modelopt-") as scratch,
        ):
            folder = Path(scratch)
            save(model, folder)
            for number, feeds in enumerate(self.calibration.feeds(batch=1)):
                save_arrays(folder / "samples", number, feeds)
            answer = convert(
                "modelopt",
                "quantize",
                self.limits,
                model=str(folder / "model.onnx"),
                source=str(source.main),
                samples=str(folder / "samples"),
                into=str(result),
                calibrator=self.calibrator,
            )
        by = f"nvidia-modelopt {answer['version']}"
        with third_party(by, source):
            graph = onnx.load(str(result)).graph
            self._refuse_no_numbers(graph)
            made, products = _quantized(graph)
            if not made:
                raise UnsupportedModel(f"{by} leaves every layer in floating point.", where=str(source.main))
            how = f"int8 by {by}, ranges by its {self.calibrator}"
            saved(result, notes=[f"{how}: {made} of {products} convolutions and products"])

    def _refuse_no_numbers(self, graph: Any) -> None:
        """Scales that are no numbers are what NaN or infinity in the samples leaves; modelopt does not mind."""
        import numpy as np
        from onnx import numpy_helper

        scales = {node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
        for tensor in graph.initializer:
            if tensor.name in scales and not np.isfinite(numpy_helper.to_array(tensor)).all():
                raise SamplesInvalid(
                    f"The calibration samples lead to NaN or infinity: {tensor.name} is no number.",
                    where=self.calibration.source.where,
                    next="remove the broken samples; --recipe tensorrt-int8 names the first of them",
                )


def _quantized(graph: Any) -> tuple[int, int]:
    """How many convolutions and products read two values in int8, and how many there are."""
    integers = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    products = [node for node in graph.node if node.op_type in PRODUCTS]
    return sum(integers.issuperset(node.input[:2]) for node in products), len(products)
