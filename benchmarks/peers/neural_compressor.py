"""onnx-neural-compressor, which carries on the ONNX half of Intel's tool: static int8, per tensor and per channel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from given import Given, run
from onnx_neural_compressor import data_reader, quantization


class Reader(data_reader.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, given: Given) -> None:
        self.given = given
        self.rewind()

    def get_next(self) -> Any:
        return next(self.feeds, None)

    def rewind(self) -> None:
        self.feeds: Iterator[Any] = self.given.feeds()


def quantise(given: Given) -> None:
    options: dict[str, Any] = {}
    if given.variant == "per-channel":
        options = {"per_channel": True}
    config = quantization.config.StaticQuantConfig(
        calibration_data_reader=Reader(given),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        **options,
    )
    quantization.quantize(str(given.model), str(given.result), config)


if __name__ == "__main__":
    run(quantise, "onnx-neural-compressor", "onnx", "onnxruntime")
