"""onnxruntime's `quantize_static` and `quantize_dynamic`.

`defaults` is what the function does when nothing is said but the samples (signed activations, per tensor); the others
are its best settings on x86: pre-processed graph, unsigned activations, signed weights per channel. `entropy` comes
out as min-max with the 128 bins that it takes by itself and offers no option for; `entropy-2048` puts more in.
`+products` quantizes matrix products and convolutions only, which is what transformers bear.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from given import Given, run
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "min-max": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "entropy-2048": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
PRODUCTS = ["MatMul", "Gemm", "Conv"]


class Reader(CalibrationDataReader):
    def __init__(self, given: Given) -> None:
        self.feeds = given.feeds()

    def get_next(self) -> Any:
        return next(self.feeds, None)


def quantise(given: Given) -> None:
    if given.variant == "defaults":
        quantize_static(given.model, given.result, Reader(given))
        return
    ready = Path(given.out / "ready.onnx")
    quant_pre_process(given.model, ready, skip_symbolic_shape=True)
    if given.variant == "dynamic":
        quantize_dynamic(ready, given.result, per_channel=True, weight_type=QuantType.QInt8,
                         op_types_to_quantize=["MatMul", "Gemm"], extra_options={"DefaultTensorType": 1})  # fmt: skip
    else:
        name, _, products = given.variant.partition("+")
        if name == "entropy-2048":
            _use_bins(2048)
        quantize_static(
            ready,
            given.result,
            Reader(given),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[name],
            op_types_to_quantize=PRODUCTS if products else None,
        )
    ready.unlink()


def _use_bins(bins: int) -> None:
    module = sys.modules["onnxruntime.quantization.quantize"]
    create = module.create_calibrator

    def created(*arguments: Any, extra_options: Mapping[str, Any], **named: Any) -> Any:
        return create(*arguments, extra_options={**extra_options, "num_bins": bins}, **named)

    module.create_calibrator = created  # type: ignore[attr-defined]


if __name__ == "__main__":
    run(quantise, "onnxruntime", "onnx", "numpy")
