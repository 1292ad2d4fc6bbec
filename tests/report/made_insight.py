"""The insides of two candidates as a run finds them: convolutions that fuse differently, conversions, and layouts."""

from __future__ import annotations

from mlopt.insight import Anatomy, Insight, Layer, Layers, MemoryTrace, Peak, Peaks

DEVICE = "Intel Xeon Processor @ 2.60GHz, 2 cores"


def made_insight(baseline: str, winner: str, *, node: str = "fire2/squeeze") -> Insight:
    return Insight(
        Peaks(
            DEVICE,
            "measured",
            2,
            "2026-03-14T09:26:53+00:00",
            (
                Peak("fp32", 151e9, "onnxruntime 1.31.1", "product of fp32 matrices, the fastest run"),
                Peak("int8", 1.49e12, "openvino 2026.4.1", "product of int8 matrices, the fastest run"),
                Peak("memory", 8.6e9, "numpy 2.3.1", "copy of 256 MiB, read and written, the fastest run"),
                Peak("cache", 67e9, "numpy 2.3.1", "copy of 128 KiB, read and written, the fastest run"),
            ),
        ),
        (
            Anatomy(baseline, _layers(_floats(node), 2.9e-3), _memory(1.0), ""),
            Anatomy(winner, _layers(_integers(node), 1.4e-3), _memory(0.6), ""),
        ),
    )


def _layers(layers: tuple[Layer, ...], seconds: float) -> Layers:
    return Layers(DEVICE, "measured", "onnxruntime", 2, 1, 50, seconds, layers, ("dropout",), "ONNX Runtime's profiler")


def _floats(node: str) -> tuple[Layer, ...]:
    fires = tuple(
        Layer((f"fire{n}/conv", f"fire{n}/relu"), ("Conv", "Relu"), "Conv", "fp32", 1e-4 / n, 6_000_000, 400_000)
        for n in range(3, 20)
    )
    return (
        Layer(("conv1", "relu1"), ("Conv", "Relu"), "Conv", "fp32", 9e-4, 347_000_000, 1_800_000),
        Layer((), (), "ReorderOutput", "fp32", 6e-5, None, None),
        Layer((node, "relu2"), ("Conv", "Relu"), "Conv", "fp32", 3e-4, 12_600_000, 1_100_000),
        Layer(("pool",), ("MaxPool",), "MaxPool", "fp32", 1e-4, 10_000_000, 1_200_000),
        *fires,
        Layer(("mystery",), ("Custom",), "Custom", "other", 1e-5, None, None),
    )


def _integers(node: str) -> tuple[Layer, ...]:
    fires = tuple(
        Layer((f"dq{n}", f"fire{n}/conv"), ("DequantizeLinear", "Conv"), "QLinearConv", "int8", 4e-5 / n, 6_000_000, 99)
        for n in range(3, 20)
    )
    return (
        Layer(("quantize",), ("QuantizeLinear",), "QuantizeLinear", "fp32", 4e-5, 0, 700_000),
        Layer(("conv1",), ("Conv",), "QLinearConv", "int8", 3e-4, 340_000_000, 450_000),
        # What the baseline runs as two layers runs as one here.
        Layer((node, "pool"), ("Conv", "MaxPool"), "Fused", "int8", 2e-4, 22_600_000, 300_000),
        *fires,
        Layer((), (), "ReorderOutput", "int8", 0.0, None, None),
    )


def _memory(scale: float) -> MemoryTrace:
    times = tuple(0.01 * n for n in range(80))
    held = tuple(int(scale * 1e6 * min(20 + 2 * n, 96)) for n in range(80))
    marks = (("imported", 0.4), ("loaded", 0.45), ("answered", 0.47), ("done", 0.79))
    return MemoryTrace(times, held, marks, DEVICE, "measured", "resident pages, read every 2 ms")
