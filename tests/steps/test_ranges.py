"""Observed ranges: the same as a calculation that keeps everything in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import conv_net, save

from mlopt.steps.ranges import observe


@pytest.fixture
def feeds() -> list[dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    return [{"image": draw.standard_normal((1, 3, 32, 32)).astype(np.float32) * (1 + n)} for n in range(6)]


def kept(model: Path, names: list[str], feeds: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    proto = onnx.load(str(model))
    proto.graph.output.extend([onnx.ValueInfoProto(name=name) for name in names if name != "image"])
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = [session.run([name for name in names if name != "image"], feed) for feed in feeds]
    found = {
        name: np.concatenate([row[i].ravel() for row in rows])
        for i, name in enumerate(n for n in names if n != "image")
    }
    return {**found, "image": np.concatenate([feed["image"].ravel() for feed in feeds])}


def test_min_max(tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    names = ["image", "c1", "r1", "r2"]
    found = observe(model, names, lambda: feeds, calibrator="min-max", percentile=100)
    for name, values in kept(model, names, feeds).items():
        assert found[name].low == pytest.approx(values.min(), rel=1e-5, abs=1e-6)
        assert found[name].high == pytest.approx(values.max(), rel=1e-5, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.999])
def test_percentile_is_within_one_bin(tmp_path: Path, feeds: list[dict[str, np.ndarray]], percentile: float) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    names = ["image", "c1", "r1"]
    found = observe(model, names, lambda: feeds, calibrator="percentile", percentile=percentile)
    for name, values in kept(model, names, feeds).items():
        bin_width = float(values.max() - values.min()) / 2048
        tail, slack = (1 - percentile / 100) / 2, 1e-6 + 1 / len(values)
        low, high = found[name].low, found[name].high
        assert (values < low - 1e-4 * bin_width).mean() <= tail + slack, "no more is cut than was asked"
        assert (values > high + 1e-4 * bin_width).mean() <= tail + slack
        assert (values <= low + 1.01 * bin_width).mean() >= tail - slack, "and no less, to within one bin"
        assert (values >= high - 1.01 * bin_width).mean() >= tail - slack


def test_nan_names_the_tensor(tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    feeds[3]["image"][0, 0, 0, 0] = np.inf
    with pytest.raises(FloatingPointError, match="c1"):
        observe(model, ["c1", "r2"], lambda: feeds, calibrator="min-max", percentile=100)
