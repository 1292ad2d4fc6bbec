"""NNCF on the ONNX graph: its post-training quantisation as it comes, with accurate bias correction, and with accuracy
control, which gets the same samples and labels to search with as mlopt does, and has its evaluations counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import nncf
import numpy as np
import onnx
import onnxruntime
from given import Given, run


def quantise(given: Given) -> dict[str, Any]:
    model = onnx.load(given.model)
    if given.variant == "accuracy-control":
        quantised, said = _controlled(model, given)
    else:
        quantised = nncf.quantize(
            model,
            nncf.Dataset(list(given.feeds())),
            preset=nncf.QuantizationPreset.MIXED if given.variant == "mixed" else None,
            fast_bias_correction=given.variant != "accurate-bias",
            subset_size=_count(given),
            model_type=nncf.ModelType.TRANSFORMER if given.attention else None,
        )
        said = {}
    onnx.save(quantised, given.result)
    return said


def _controlled(model: onnx.ModelProto, given: Given) -> tuple[onnx.ModelProto, dict[str, Any]]:
    labels = given.labels()
    assert labels is not None
    calls: list[int] = []
    rows = [(feed, int(label)) for feed, label in zip(given.feeds(), labels, strict=True)]

    def validate(candidate: onnx.ModelProto, items: Iterable[Any]) -> tuple[float, list[float]]:
        session = onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        hits = [float(np.argmax(session.run(None, feed)[0]) == label) for feed, label in items]
        calls.append(len(hits))
        return float(np.mean(hits)), hits

    quantised = nncf.quantize_with_accuracy_control(
        model,
        calibration_dataset=nncf.Dataset(rows, lambda row: row[0]),
        validation_dataset=nncf.Dataset(rows),
        validation_fn=validate,
        max_drop=given.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        subset_size=len(rows),
        model_type=nncf.ModelType.TRANSFORMER if given.attention else None,
    )
    return quantised, {"evaluations": len(calls), "samples_evaluated": sum(calls)}


def _count(given: Given) -> int:
    return len(next(iter(given.arrays().values())))


if __name__ == "__main__":
    run(quantise, "nncf", "onnx", "onnxruntime", "openvino")
