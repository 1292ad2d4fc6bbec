"""Static quantization: int8 weights and activations, with ranges observed on calibration samples (static PTQ)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mlopt.artifact import ONNX, Artifact, Format
from mlopt.errors import SamplesInvalid
from mlopt.steps.quantizer import prepared, saved
from mlopt.steps.ranges import Calibrator, observe

if TYPE_CHECKING:
    from mlopt.samples.samples import Samples

Scheme = Literal["u8s8", "u8s8-7bit", "s8s8", "u8u8"]


@dataclass(frozen=True, slots=True)
class QuantizeStatic:
    """Insert QuantizeLinear/DequantizeLinear pairs (QDQ) around the operators that have int8 kernels.

    `scheme` is activation type, weight type: `u8s8` where the CPU multiplies u8 by s8 without saturating
    (VNNI, dotprod), `u8s8-7bit` where it saturates (AVX2's vpmaddubsw): seven-bit weights cannot overflow.
    `op_types` empty means every operator that the runtime has an int8 kernel for.
    """

    name: ClassVar[str] = "quantize-static"
    version: ClassVar[int] = 2
    accepts: ClassVar[frozenset[Format]] = frozenset({ONNX})
    produces: ClassVar[Format] = ONNX
    requires: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    calibration: Samples
    scheme: Scheme = "u8s8"
    per_channel: bool = True
    calibrator: Calibrator = "min-max"
    percentile: float = 99.999
    op_types: tuple[str, ...] = ()

    def run(self, source: Artifact, into: Path) -> None:
        with prepared(source, optimize=True) as model:
            import onnx
            from onnxruntime.quantization import QDQQuantizer, QuantType
            from onnxruntime.quantization.registry import QDQRegistry

            op_types = list(self.op_types) or sorted(QDQRegistry)
            ready = into / "prepared.onnx"
            onnx.save(model, str(ready))
            ranges = self._observe(ready, op_types)
            types = {"u": QuantType.QUInt8, "s": QuantType.QInt8}
            quantizer = QDQQuantizer(
                model,
                per_channel=self.per_channel,
                reduce_range=self.scheme.endswith("7bit"),
                weight_qType=types[self.scheme[2]],
                activation_qType=types[self.scheme[0]],
                tensors_range=ranges,
                nodes_to_quantize=[],
                nodes_to_exclude=[],
                op_types_to_quantize=op_types,
                extra_options={"ActivationSymmetric": self.scheme[0] == "s", "WeightSymmetric": self.scheme[2] == "s"},
            )
            quantizer.quantize_model()
            ready.unlink()
            result = into / "model.onnx"
            quantizer.model.save_model_to_file(str(result))
            saved(result)

    def _observe(self, model: Path, op_types: list[str]) -> Any:
        """Ranges of every floating-point tensor that an operator to be quantized reads or writes."""
        import numpy as np
        from onnxruntime.quantization.calibrate import CalibrationMethod, TensorsData

        try:
            found = observe(
                model,
                _activations(model, op_types),
                lambda: self.calibration.feeds(batch=1),
                calibrator=self.calibrator,
                percentile=self.percentile,
            )
        except FloatingPointError as error:
            raise SamplesInvalid(
                f"A calibration sample leads to NaN or infinity at {error}; a range observed on it means nothing.",
                where=self.calibration.source.where,
                next="remove the broken samples, or look at the model with mlopt inspect",
            ) from error
        pairs = {name: (np.float32(seen.low), np.float32(seen.high)) for name, seen in found.items()}
        return TensorsData(CalibrationMethod.MinMax, pairs)


def _activations(model: Path, op_types: list[str]) -> set[str]:
    import onnx

    graph = onnx.load(str(model), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    touched = {
        name
        for node in graph.node
        if node.op_type in op_types
        for name in (*node.input, *node.output)
        if name and name not in constants
    }
    return {name for name in touched if kinds.get(name) == onnx.TensorProto.FLOAT}
