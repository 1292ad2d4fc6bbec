"""nvidia-modelopt's post-training quantisation of ONNX graphs to int8, with its two calibrators. What stays in floating
point stays in fp32: by itself it takes fp16, which CPUs emulate."""

from __future__ import annotations

from given import Given, run
from modelopt.onnx.quantization import quantize


def quantise(given: Given) -> None:
    quantize(
        onnx_path=str(given.model),
        quantize_mode="int8",
        calibration_data=given.arrays(),
        calibration_method=given.variant,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(given.result),
    )


if __name__ == "__main__":
    run(quantise, "nvidia-modelopt", "onnx")
