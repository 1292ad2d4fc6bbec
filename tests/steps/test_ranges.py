"""Observed ranges: the same as a calculation that keeps everything in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from nets import conv_net, fire_net, matmul_net, save

from mlopt.steps.histogram import Range
from mlopt.steps.ranges import Calibration, joined, observe
from mlopt.steps.watched import NotFinite


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
    found = observe(model, names, lambda: feeds, Calibration("min-max"))
    for name, values in kept(model, names, feeds).items():
        assert found[name].low == pytest.approx(values.min(), rel=1e-5, abs=1e-6)
        assert found[name].high == pytest.approx(values.max(), rel=1e-5, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.999])
def test_percentile_is_within_one_bin(tmp_path: Path, feeds: list[dict[str, np.ndarray]], percentile: float) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    names = ["image", "c1", "r1"]
    found = observe(model, names, lambda: feeds, Calibration("percentile", percentile))
    for name, values in kept(model, names, feeds).items():
        bin_width = float(values.max() - values.min()) / 2048
        tail, slack = (1 - percentile / 100) / 2, 1e-6 + 1 / len(values)
        low, high = found[name].low, found[name].high
        assert (values < low - 1e-4 * bin_width).mean() <= tail + slack, "no more is cut than was asked"
        assert (values > high + 1e-4 * bin_width).mean() <= tail + slack
        assert (values <= low + 1.01 * bin_width).mean() >= tail - slack, "and no less, to within one bin"
        assert (values >= high - 1.01 * bin_width).mean() >= tail - slack


@pytest.mark.parametrize("calibrator", ["min-max", "moving-average", "percentile", "entropy", "mse"])
def test_what_is_to_stay_whole_keeps_its_extremes(
    tmp_path: Path, feeds: list[dict[str, np.ndarray]], calibrator: str
) -> None:
    """And nothing else does, but where the calibrator says so."""
    model, names = save(conv_net(), tmp_path / "m.onnx"), ["c1", "logits"]
    how = Calibration(calibrator, percentile=90)  # type: ignore[arg-type]
    extremes = observe(model, names, lambda: feeds, Calibration("min-max"))
    found = observe(model, names, lambda: feeds, how, whole={"logits"})
    assert found["logits"] == extremes["logits"]
    assert (found["c1"] == extremes["c1"]) == (calibrator == "min-max")


def test_not_finite_names_where_it_began_and_the_sample(tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    feeds[3]["image"][0, 0, 0, 0] = np.inf
    with pytest.raises(NotFinite, match="input 'image'") as caught:
        observe(model, ["c1", "r2"], lambda: feeds, Calibration())
    assert caught.value.query == 3

    net = matmul_net()
    net.graph.node[1].op_type = "Log"  # of what is negative half of the time
    model = save(net, tmp_path / "log.onnx")
    rows = [{"x": np.full((1, 64), 0.0, np.float32)}, {"x": np.random.default_rng(0).random((1, 64), np.float32)}]
    rows[0]["x"] += 1.0
    with pytest.raises(NotFinite, match=r"node 'relu' \(Log\), whose output is 'r'") as caught:
        observe(model, ["y"], lambda: rows[1:], Calibration("mse"))
    assert (caught.value.tensor, caught.value.query) == ("r", 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.onnx", "m.onnx"], "nothing else is left"


@pytest.mark.parametrize("calibrator", ["min-max", "percentile", "entropy", "mse"])
def test_order_and_number_of_passes(tmp_path: Path, feeds: list[dict[str, np.ndarray]], calibrator: str) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    passes = []

    def counted() -> list[dict[str, np.ndarray]]:
        passes.append(calibrator)
        return feeds

    how = Calibration(calibrator)  # type: ignore[arg-type]
    found = observe(model, ["image", "c1", "logits"], counted, how)
    assert len(passes) == (2 if calibrator == "entropy" else 1)
    assert observe(model, ["logits", "c1", "image"], lambda: feeds[::-1], how) == found


def test_moving_average_is_a_mean_and_then_forgets(tmp_path: Path, feeds: list[dict[str, np.ndarray]]) -> None:
    model = save(conv_net(), tmp_path / "m.onnx")
    lows = [float(feed["image"].min()) for feed in feeds]
    mean = observe(model, ["image"], lambda: feeds, Calibration("moving-average"))["image"]
    assert mean.low == pytest.approx(np.mean(lows))
    moved = observe(model, ["image"], lambda: feeds, Calibration("moving-average", averaging_constant=0.5))["image"]
    expected = lows[0]
    for low in lows[1:]:
        expected += 0.5 * (low - expected)
    assert moved.low == pytest.approx(expected)


@pytest.mark.parametrize("calibrator", ["min-max", "moving-average", "percentile", "entropy", "mse"])
def test_what_is_always_zero_or_empty(tmp_path: Path, calibrator: str) -> None:
    model = save(matmul_net(), tmp_path / "m.onnx")
    how = Calibration(calibrator)  # type: ignore[arg-type]
    for rows in (0, 2):
        feeds = [{"x": np.zeros((rows, 64), np.float32)}] * 2
        found = observe(model, ["x", "h", "y"], lambda feeds=feeds: feeds, how)  # type: ignore[misc]
        assert {(seen.low, seen.high) for seen in found.values()} == {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"calibrator": "minmax"}, "there are min-max, moving-average, percentile, entropy, mse"),
        ({"percentile": 50}, "above 50 and at most 100"),
        ({"percentile": "99"}, "'99', and must be a number"),
        ({"averaging_constant": 0}, "above 0 and at most 1"),
        ({"bins": 129}, "even number from 2 to 8192"),
        ({"bins": 16384}, "even number from 2 to 8192"),
        ({"quantized_bins": 0}, "quantized-bins is 0"),
        ({"bins": 64}, "must not be below quantized-bins, which is 128"),
    ],
)
def test_refused_options(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Calibration(**options)  # type: ignore[arg-type]


RANGES = {"one": Range(-1, 2), "three": Range(0, 6), "joined": Range(0, 5), "p2": Range(0, 5)}


def test_what_one_concat_joins_has_one_range() -> None:
    assert joined(fire_net().graph, RANGES) == {**RANGES, **dict.fromkeys(("one", "three", "joined"), Range(-1, 6))}


def test_concats_that_touch_have_one_range_together() -> None:
    graph = fire_net().graph
    graph.node.append(onnx.helper.make_node("Concat", ["p2", "joined"], ["more"], name="more", axis=2))
    assert set(joined(graph, RANGES).values()) == {Range(-1, 6)}


def test_a_concat_in_floating_point_joins_nothing() -> None:
    assert joined(fire_net().graph, RANGES, but={"join"}) == RANGES
