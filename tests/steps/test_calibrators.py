"""Calibrators beside ONNX Runtime's where both define the same, and beside exhaustive search where it has none."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from nets import conv_net, save
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from mlopt.steps.calibrators import entropy, least_squares
from mlopt.steps.histogram import Histogram, Range
from mlopt.steps.ranges import Calibration, observe

Feeds = list[dict[str, np.ndarray]]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Feeds) -> None:
        self.feeds: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> Any:
        return next(self.feeds, None)


def feeds(count: int = 5, *, tailed: bool = False) -> Feeds:
    draw = np.random.default_rng(int(tailed))
    kind = (lambda: draw.standard_t(3, (1, 3, 32, 32))) if tailed else (lambda: draw.standard_normal((1, 3, 32, 32)))
    return [{"image": (kind() * (1 + n)).astype(np.float32)} for n in range(count)]


def made(folder: Path) -> Path:
    return save(onnx.shape_inference.infer_shapes(conv_net(width=4)), folder / "m.onnx")


def theirs(
    model: Path, method: str, collected: list[Feeds], **options: object
) -> dict[str, tuple[float, float, float]]:
    """Low, high and width of a bin (0 where there are none) by ONNX Runtime's calibrator."""
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            model,
            None,
            str(model.with_name("augmented.onnx")),
            CalibrationMethod[method],
            extra_options=options,
        )
        for each in collected:
            calibrator.collect_data(Reader(each))
        found = calibrator.compute_data()
    ranges = {}
    for name, seen in found.items():
        low, high = (float(np.asarray(bound).item()) for bound in seen.range_value)
        edges = calibrator.collector.histogram_dict[name][1] if method != "MinMax" else (0, 0)
        ranges[name] = (low, high, float(edges[1] - edges[0]))
    assert "image" in ranges
    assert "logits" in ranges
    return ranges


def ours(model: Path, names: dict[str, Any], given: Feeds, how: Calibration) -> dict[str, Range]:
    return observe(model, names, lambda: given, how)


def test_min_max_and_moving_average(tmp_path: Path) -> None:
    model, given = made(tmp_path), feeds()
    apiece = [[feed] for feed in given]
    for how, expected in (
        (Calibration("min-max"), theirs(model, "MinMax", [given])),
        (Calibration("moving-average"), theirs(model, "MinMax", [given], moving_average=True)),
        (
            Calibration("moving-average", averaging_constant=0.5),
            theirs(model, "MinMax", apiece, moving_average=True, averaging_constant=0.5),
        ),
    ):
        found = ours(model, expected, given, how)
        for name, (low, high, _) in expected.items():
            assert found[name].low == pytest.approx(low, rel=1e-4, abs=1e-5), (how, name)
            assert found[name].high == pytest.approx(high, rel=1e-4, abs=1e-5), (how, name)


@pytest.mark.parametrize("tailed", [False, True])
@pytest.mark.parametrize(("bins", "quantized_bins"), [(512, 128), (400, 64)])
def test_entropy_chooses_the_same_bins(tmp_path: Path, bins: int, quantized_bins: int, tailed: bool) -> None:
    model, given = made(tmp_path), feeds(tailed=tailed)
    expected = theirs(model, "Entropy", [given], num_bins=bins, num_quantized_bins=quantized_bins)
    found = ours(model, expected, given, Calibration("entropy", bins=bins, quantized_bins=quantized_bins))
    for name, (low, high, width) in expected.items():
        assert abs(found[name].low - low) <= 0.01 * width, name
        assert abs(found[name].high - high) <= 0.01 * width, name
    extremes = ours(model, expected, given, Calibration("min-max"))
    assert found["image"].low > extremes["image"].low, "something is clipped"


def test_entropy_without_bins_to_spare_is_min_max(tmp_path: Path) -> None:
    model, given = made(tmp_path), feeds(tailed=True)
    names = {"image": None, "c1": None, "logits": None}
    same = ours(model, names, given, Calibration("entropy", bins=128, quantized_bins=128))
    assert same == ours(model, names, given, Calibration("min-max"))
    assert same != ours(model, names, given, Calibration("entropy"))


@pytest.mark.parametrize("percentile", [99.0, 99.9])
def test_percentile_is_within_one_bin(tmp_path: Path, percentile: float) -> None:
    model, given = made(tmp_path), feeds(tailed=True)
    expected = theirs(model, "Percentile", [given], percentile=percentile, symmetric=False)
    found = ours(model, expected, given, Calibration("percentile", percentile))
    for name, (low, high, width) in expected.items():
        assert abs(found[name].low - low) <= 1.5 * width, name  # theirs ends on the near edge of the last bin
        assert abs(found[name].high - high) <= 1.5 * width, name


def test_entropy_of_values_at_the_very_end() -> None:
    """Where everything lies past the last whole group of bins there is nothing to compare."""
    for bins, quantized_bins in ((1000, 64), (2048, 128), (8192, 2)):
        seen = Histogram(bins, reach=5.0)
        seen.add(np.full(7, 5.0, np.float32), Range(5.0, 5.0))
        assert entropy(seen, quantized_bins) == Range(5.0, 5.0)


def squared_error(values: np.ndarray, low: float, high: float, *, symmetric: bool) -> float:
    """What quantizing to int8 from -127, or to uint8 with a rounded zero point, loses on average."""
    least, most = (-127, 127) if symmetric else (0, 255)
    scale = (high - low) / (most - least)
    zero = 0 if symmetric else np.round(-low / scale)
    quantized = np.clip(np.round(values / scale) + zero, least, most)
    return float((((quantized - zero) * scale - values) ** 2).mean())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", ["tailed", "rectified", "skewed", "outlier"])
def test_least_squares_is_as_good_as_trying_them_all(shape: str, symmetric: bool) -> None:
    draw = np.random.default_rng(3)
    values = {
        "tailed": draw.standard_t(3, 20_000),
        "rectified": np.maximum(draw.standard_t(4, 20_000), 0),
        "skewed": draw.gamma(1.0, 1.0, 20_000) - 0.2,
        "outlier": np.concatenate([draw.standard_normal(20_000), [60.0]]),
    }[shape].astype(np.float32)
    lowest, highest = float(values.min()), float(values.max())
    seen = Histogram(1 << 14)
    seen.add(values, Range(lowest, highest))
    chosen = least_squares(seen, symmetric=symmetric)
    lost = squared_error(values, chosen.low, chosen.high, symmetric=symmetric)
    shares = np.linspace(1, 0, 48, endpoint=False)
    if symmetric:
        reach = max(-lowest, highest)
        tried = [(-share * reach, share * reach) for share in np.linspace(1, 0, 400, endpoint=False)]
    else:
        lows = shares * lowest if lowest < 0 else np.zeros(1)
        tried = [(float(low), float(high)) for low in lows for high in shares * highest]
    best = min(squared_error(values, low, high, symmetric=symmetric) for low, high in tried)
    assert lost <= 1.03 * best
    assert lost < squared_error(values, *((-reach, reach) if symmetric else tried[0]), symmetric=symmetric)
    assert chosen.low <= 0 <= chosen.high
